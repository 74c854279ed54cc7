"""Shards elsewhere: the cache of this machine, and whether a location that was asked about can be read."""

import os
from collections.abc import Mapping
from pathlib import Path

from viewfold.errors import InvalidInput, ViewfoldError
from viewfold.jobs.doctor_finding import Finding, missing, note, ok
from viewfold.jobs.doctor_machine import LEAST_FREE_GB, folder
from viewfold.pipeline.locations import is_remote, local_path
from viewfold.pipeline.remote.cache import shard_cache
from viewfold.pipeline.remote.retries import Patience
from viewfold.pipeline.remote.store import listing, look
from viewfold.pipeline.remote.urls import CREDENTIALS, file_name, scheme, shown

ONCE = Patience(tries=1, stall_s=3.0)
VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "FSSPEC_S3_ANON"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS",),
    "hf": ("HF_TOKEN",),
}
"""For each kind of store that asks who one is, the variables that say so."""
FILES = {
    "s3": ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "~/.config/gcloud/application_default_credentials.json"),
    "hf": ("HF_TOKEN_PATH", "~/.cache/huggingface/token"),
}
"""For each, the variable that names its file of credentials, and where that file lies else."""


def cache_folder() -> list[Finding]:
    """Where shards of remote stores are kept on this machine: nothing else needs it."""
    try:
        cache = shard_cache()
        held_gb, most_gb = cache.held_bytes() / 1e9, cache.max_bytes / 1e9
    except InvalidInput as error:
        return [note("shard cache", str(error), "VIEWFOLD_CACHE and VIEWFOLD_CACHE_BYTES set it")]
    cure = "set VIEWFOLD_CACHE to a folder on a disk with room; shards on local disks need none"
    found = folder("shard cache", cache.folder, cure, LEAST_FREE_GB)
    if found.level != "ok":
        return [note(found.what, found.says, cure)]
    return [ok("shard cache", f"{held_gb:.1f} of {most_gb:g} GB used, {found.says}")]


def source(location: str) -> list[Finding]:
    """Whether shards can be read there, by one object; and for a store, which credentials this machine has."""
    if not is_remote(location):
        return [_local(location)]
    try:
        kind = scheme(location)
    except InvalidInput as error:
        return [missing("storage", str(error), "correct the address")]
    found = [_reached(location)]
    return [*found, credentials(kind)] if kind in VARIABLES else found


def credentials(kind: str, environ: Mapping[str, str] = os.environ) -> Finding:
    """Which of the known sources there are; never what they hold."""
    variable, default = FILES[kind]
    path = Path(environ.get(variable) or default).expanduser()
    if environ.get(variable) and not path.exists():
        return missing("credentials", f"{variable}={path}: no such file", f"correct or unset {variable}")
    sources = [name for name in VARIABLES[kind] if environ.get(name)]
    if path.is_file() and variable not in sources:
        sources.append(str(path))
    if sources:
        return ok("credentials", f"{kind}:// by {', '.join(sources)}")
    says = f"none for {kind}:// on this machine: left are what is public, and the account of the machine"
    return note("credentials", says, f"they are looked for in {CREDENTIALS[kind]}")


def _local(location: str) -> Finding:
    path = local_path(location)
    if not path.exists():
        return missing("storage", f"{path}: no such file or folder on this machine", "correct the path, or mount it")
    if not os.access(path, os.R_OK):
        return missing("storage", f"{path} cannot be read", "give this user the right to read it")
    shards = [path] if path.is_file() else sorted(path.glob("*.tar"))
    if not shards:
        return missing("storage", f"{path}: no *.tar in it", "`viewfold data import` makes shards of images")
    return ok("storage", f"{shards[0]} has {shards[0].stat().st_size} bytes, one of {len(shards)}")


def _reached(location: str) -> Finding:
    cure = "correct the address, the network or the credentials, whichever it is"
    try:
        if file_name(location).endswith(".tar") and "*" not in location:
            return ok("storage", _described(location))
        pattern = location if "*" in location else f"{location.rstrip('/')}/*.tar"
        shards = listing(pattern, patience=ONCE)
        if not shards:
            return missing("storage", f"{shown(location)} answers and lists no .tar", "name a folder of shards, or one")
        return ok("storage", f"{_described(shards[0])}, one of {len(shards)}")
    except ViewfoldError as error:
        return missing("storage", str(error), cure)


def _described(shard: str) -> str:
    return f"{shown(shard)} has {look(shard, patience=ONCE).size} bytes"
