"""Shards in and out of a manifest: what the `data` verbs and the first stage of every run do."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from viewfold.config import Config
from viewfold.errors import InvalidInput
from viewfold.pipeline.importer import COLUMNS, import_folder
from viewfold.pipeline.manifest import ShardManifest, index_shards
from viewfold.pipeline.progress import progress
from viewfold.pipeline.shards import expand_shards
from viewfold.pipeline.stats import contact_sheet, count
from viewfold.pipeline.verify import Problem, verify

SHIPPED = "demo:"
"""Prefix of the names of the data sets that come with the package."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Which shards, and which of their samples."""

    shards: tuple[str, ...]
    """Tar files, folders of them, globs or brace ranges such as `a-{000000..000005}.tar`; `demo:NAME` is shipped."""
    domains: tuple[str, ...] = ()
    """Only samples of these domains; empty for all."""
    without_domains: tuple[str, ...] = ()
    """No samples of these domains: what is held out."""
    labelled: bool = False
    """Only samples with a label."""


def locate(shards: tuple[str, ...]) -> list[Path]:
    """The files that `shards` names.

    Raises:
        InvalidInput: a name that matches nothing.
    """
    folder = Path(str(files("viewfold") / "demo_data"))
    patterns = []
    for name in shards:
        shipped = name.removeprefix(SHIPPED)
        if name != shipped and not sorted(folder.glob(f"{shipped}-*.tar")):
            known = sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.tar")})
            raise InvalidInput(f"{name}: no such shipped data; there are {', '.join(SHIPPED + k for k in known)}")
        patterns.append(str(folder / f"{shipped}-*.tar") if name != shipped else name)
    return expand_shards(patterns)


def shard_stamps(shards: tuple[str, ...]) -> dict[str, str]:
    """Size and time of each shard: what tells that a manifest is out of date without reading the shards."""
    stats = {str(path): path.stat() for path in locate(shards)}
    return {path: f"{stat.st_size}-{stat.st_mtime_ns}" for path, stat in stats.items()}


def source(manifest: Path, config: DataConfig) -> ShardManifest:
    """The samples of an indexed manifest that `config` asks for."""
    loaded = ShardManifest.load(manifest)
    if not (config.domains or config.without_domains or config.labelled):
        return loaded
    return loaded.subset(
        domains=config.domains or None,
        without_domains=config.without_domains or None,
        labelled=True if config.labelled else None,
    )


def index_and_verify(config: DataConfig, out: Path) -> dict[str, Any]:
    """Write the manifest of the shards into `out`, decode every image once, draw a contact sheet.

    Raises:
        InvalidInput: a shard or an image cannot be read; names the first, counts the others.
    """
    manifest = _indexed(locate(config.shards), out)
    problems = _verified(manifest)
    if problems:
        more = f" (and {len(problems) - 1} more; `viewfold data verify` lists them)" if len(problems) > 1 else ""
        raise InvalidInput(f"{_line(problems[0])}{more}")
    contact_sheet(manifest, out / "contact-sheet.png")
    return {"manifest_hash": manifest.hash, **count(manifest)}


def import_images(
    folder: Path, out: Path, *, csv: Path | None, columns: Sequence[str], shard_bytes: int, skip_bad: bool
) -> str:
    """Images to shards; returns what is said about it. `columns` are `name=header` pairs for other headers."""
    headers = dict(_header(pair) for pair in columns)
    with progress("import", total=None) as bar:
        manifest = import_folder(
            folder, out, csv=csv, columns=headers, shard_bytes=shard_bytes, skip_bad=skip_bad, progress=bar.advance
        )
    labelled = int((manifest.label >= 0).sum())
    counts = f"{len(manifest)} images ({labelled} with a label) in {len(manifest.shards)} shards"
    return f"{counts}, manifest {manifest.hash[:16]}: {out}"


def index_shards_to(shards: list[str], out: Path) -> str:
    """Index shards; returns what is said about it."""
    manifest = _indexed(locate(tuple(shards)), out)
    return f"{len(manifest)} samples in {len(manifest.shards)} shards, manifest {manifest.hash[:16]}: {out}"


def verify_manifest(path: Path) -> tuple[str, bool]:
    """A line for each problem and a summary; whether there was none."""
    manifest = ShardManifest.load(path)
    problems = _verified(manifest)
    summary = f"{len(manifest)} samples in {len(manifest.shards)} shards: {len(problems)} problems"
    return "\n".join([*map(_line, problems), summary]), not problems


def manifest_stats(path: Path, sheet: Path) -> str:
    """Counts as text, and the contact sheet drawn to `sheet`."""
    manifest = ShardManifest.load(path)
    contact_sheet(manifest, sheet)
    lines = []
    for name, value in count(manifest).items():
        lines.append(f"{name}:" if isinstance(value, dict) else f"{name}: {value}")
        lines += [f"  {key:28} {number}" for key, number in value.items()] if isinstance(value, dict) else []
    return "\n".join([*lines, f"contact sheet: {sheet}"])


def _indexed(paths: Sequence[Path], out: Path) -> ShardManifest:
    with progress("index shards", total=len(paths)) as bar:
        return index_shards(paths, out, progress=bar.advance)


def _verified(manifest: ShardManifest) -> list[Problem]:
    with progress("verify samples", total=len(manifest)) as bar:
        return verify(manifest, progress=bar.advance)


def _header(pair: str) -> tuple[str, str]:
    name, _, header = pair.partition("=")
    if name not in COLUMNS or not header:
        raise InvalidInput(f"--column {pair}: write it as NAME=HEADER, where NAME is one of {', '.join(COLUMNS)}")
    return name, header


def _line(problem: Problem) -> str:
    return ": ".join(part for part in (problem.shard, problem.key, problem.reason) if part)
