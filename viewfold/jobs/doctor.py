"""What this machine can do, what is missing, and how to get it."""

import dataclasses
import json
import textwrap
from collections.abc import Sequence
from functools import partial

from viewfold.errors import printable
from viewfold.jobs.doctor_finding import Check, Finding, looked, looked_within, ok
from viewfold.jobs.doctor_gpu import gpus
from viewfold.jobs.doctor_machine import machine, run_folder, temporary_folder
from viewfold.jobs.doctor_packages import constrained_versions, installed, packages
from viewfold.jobs.doctor_ports import ports
from viewfold.jobs.doctor_ray import ray_cluster, ray_package
from viewfold.jobs.doctor_tracking import tracking

LIMIT_S = 4.0
_WIDTH = 120


def examine(location: str | None = None) -> list[Finding]:
    """Look at the machine, its packages, disks and ports, Ray, the tracking server, and shards at `location`.

    Nothing raises. What may hang (disks, name servers, networks) is given `LIMIT_S` seconds, all of it together.
    """
    have = installed()
    findings = looked("machine", machine) + looked("packages", lambda: packages(have, constrained_versions()))
    findings += looked("gpu", lambda: gpus(have)) + looked("ray", lambda: ray_package(have))
    may_hang: dict[str, Check] = {
        "runs": run_folder,
        "temporary files": temporary_folder,
        "shard cache": _shard_cache,
        "ports": ports,
        "ray cluster": ray_cluster,
        "tracking": partial(tracking, have),
    }
    if location is not None:
        may_hang["storage"] = partial(_source, location)
    return findings + looked_within(LIMIT_S, may_hang)


def sound(findings: Sequence[Finding]) -> bool:
    """Whether nothing stops ordinary work, or what was asked about."""
    return all(finding.level != "MISSING" for finding in findings)


def table(findings: Sequence[Finding]) -> str:
    """For people: a line or more for each finding, the cure below it."""
    lines = []
    for finding in findings:
        head = f"{finding.level:7} {finding.what:16} "
        lines.append(_filled(head, finding.says))
        if finding.cure:
            lines.append(_filled(f"{'':{len(head)}}-> ", finding.cure))
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """For programs: `sound`, and `findings` with `what`, `level`, `says` and `cure` each."""
    plain = [dataclasses.asdict(finding) for finding in findings]
    return json.dumps({"sound": sound(findings), "findings": plain}, indent=1)


def _shard_cache() -> Sequence[Finding]:
    try:  # reading shards needs torch, and a machine that lacks it is one to look at
        from viewfold.jobs.doctor_storage import cache_folder
    except ModuleNotFoundError as error:
        return [ok("shard cache", f"unknown without {error.name}")]
    return cache_folder()


def _source(location: str) -> Sequence[Finding]:
    from viewfold.jobs.doctor_storage import source

    return source(location)


def _filled(head: str, text: str) -> str:
    """Whole words only: a path or an address is copied from here."""
    lines = textwrap.TextWrapper(_WIDTH, head, " " * len(head), break_long_words=False, break_on_hyphens=False)
    return lines.fill(printable(text))
