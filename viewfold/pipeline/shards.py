"""Tar shards in the WebDataset convention: what they hold, where each member lies, and what in them cannot be used.

A sample is the run of adjacent members that share a key: the path up to the first dot of the file's name. What follows
the dot is the member's extension (`jpg`, `json`, `07.jpg`). Members without a key or an extension are not samples.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import BinaryIO, NamedTuple

from viewfold.errors import ShardError
from viewfold.pipeline.tarwalk import Damage, Entry, walk_tar

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_IMAGE = re.compile(rf"(?:(\d+)\.)?(?:{'|'.join(IMAGE_EXTENSIONS)})")


class Member(NamedTuple):
    """Where the bytes of one member lie in its shard."""

    offset: int
    size: int


def is_image(extension: str) -> bool:
    """Whether members of this lower-case extension are stored images: `jpg`, or `07.jpg` as one of several."""
    return _IMAGE.fullmatch(extension) is not None


@dataclass(frozen=True)
class Fault:
    """Something in a shard that cannot be used, and where."""

    shard: str
    key: str
    """Key within the shard; empty where the shard itself is the problem."""
    offset: int
    """Byte of the shard: that at which the member begins, or the damage."""
    reason: str

    def error(self) -> ShardError:
        """The error that names shard, key and byte."""
        return ShardError(self.shard, f"byte {self.offset}: {self.reason}", self.key or None)


@dataclass(frozen=True)
class ShardSample:
    """One sample of a shard; `members` are in the order of the tar, keyed by lower-case extension."""

    key: str
    members: dict[str, Member]

    def images(self, shard: str) -> list[Member]:
        """The stored images by their number: a plain `jpg`, or `00.jpg`, `01.jpg` and so on without a gap.

        Raises:
            ShardError: no image, both kinds, or a gap in the numbers; latents are matched to images by number.
        """
        numbered = sorted((int(m[1] or 0), ext) for ext in self.members if (m := _IMAGE.fullmatch(ext)))
        if not numbered:
            raise ShardError(
                shard, f"no image among its members; one of {', '.join(IMAGE_EXTENSIONS)} is needed", self.key
            )
        numbers = [number for number, _ in numbered]
        if numbers != list(range(len(numbers))):
            raise ShardError(shard, f"its images must be numbered 00, 01, ... once each, found {numbers}", self.key)
        return [self.members[ext] for _, ext in numbered]


class Stored(NamedTuple):
    """One member as it lies in the tar."""

    name: str
    extension: str
    """Lower-case."""
    number: int
    """How many members of samples come before it: those of one key should be neighbours."""
    member: Member


@dataclass(frozen=True)
class ShardContents:
    """All that can be found in a shard, whether or not it can be used."""

    members: dict[str, list[Stored]] = field(default_factory=dict)
    """By key, keys in the order in which they come first; the same extension may come twice."""
    faults: list[Fault] = field(default_factory=list)
    """Of the shard itself."""
    incomplete: dict[str, Fault] = field(default_factory=dict)
    """Samples that have lost a member, or may have: no guess is made at what a damage has taken."""
    others: list[Fault] = field(default_factory=list)
    """Files that are no member of a sample, for their names have no key or no extension."""

    def found_keys(self) -> list[str]:
        """Every sample of which anything was found."""
        return list({**self.members, **self.incomplete})


def shard_contents(file: BinaryIO, shard: str) -> ShardContents:
    """Read the headers of a shard, going on behind every damage; `shard` is its name in faults.

    A sample beside a damage is taken for complete only if it has every extension that any sample of the shard has.
    """
    contents = ShardContents()
    beside: dict[str, Fault] = {}
    last, number, damage = "", 0, None
    for found in walk_tar(file):
        if isinstance(found, Damage):
            fault = Fault(shard, "", found.offset, found.reason)
            contents.faults.append(fault)
            if match := _NAME.fullmatch(found.name):
                key = shown(match[1])
                contents.incomplete.setdefault(key, replace(fault, key=key))
            else:
                damage = fault
                beside.setdefault(last, fault)
        elif key := _put(contents, found, shard, number, after_damage=damage is not None):
            last, number = key, number + 1
            if damage is not None:
                beside.setdefault(key, damage)
                damage = damage if key in contents.incomplete else None
    every = {one.extension for stored in contents.members.values() for one in stored}
    for key, fault in beside.items():
        if lost := every - {one.extension for one in contents.members.get(key, [])} if key else None:
            reason = f"it may have lost its .{sorted(lost)[0]} to the damage at byte {fault.offset}"
            contents.incomplete.setdefault(key, Fault(shard, key, fault.offset, reason))
    return contents


def scan_shard(file: BinaryIO, shard: str, *, faults: list[Fault] | None = None) -> list[ShardSample]:
    """The samples of one shard in order, from its headers alone; `shard` is its name in messages.

    With a list for `faults`, every problem is appended to it, in the order of the shard, and the samples that can be
    used are returned.

    Raises:
        ShardError: without a list, the first problem: not a tar, cut short, damaged between members, a sample without
            images or with a gap in them, a member that occurs twice, members of one key apart.
    """
    contents = shard_contents(file, shard)
    found, samples = list(contents.faults), []
    for key in contents.found_keys():
        stored = contents.members.get(key, [])
        sample = ShardSample(key, {one.extension: one.member for one in stored})
        fault = contents.incomplete.get(key) or _disorder(shard, key, stored) or image_fault(shard, sample)
        if fault is None:
            samples.append(sample)
        else:
            found.append(fault)
    found.sort(key=lambda fault: fault.offset)
    if faults is None and found:
        raise found[0].error()
    if faults is not None:
        faults += found
    return samples


def apart(stored: Sequence[Stored]) -> Stored | None:
    """Of members of one key, in the order of the tar, the first that does not follow the one before."""
    return next((one for before, one in pairwise(stored) if one.number != before.number + 1), None)


def shown(name: str) -> str:
    """A name to print and to write: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _put(contents: ShardContents, entry: Entry, shard: str, number: int, *, after_damage: bool) -> str:
    """Put one member of a tar where it belongs, and return its key; an empty one if it is no member of a sample."""
    match = _NAME.fullmatch(entry.name)
    if match is None or entry.kind == "other":
        if entry.kind == "file":
            reason = f"{shown(entry.name)} is no member of a sample: its name has no key or no extension"
            contents.others.append(Fault(shard, "", entry.offset, reason))
        return ""
    key, extension = shown(match[1]), shown(match[2].lower())
    reason = _unusable(entry, extension, after_damage=after_damage)
    if reason:
        contents.incomplete.setdefault(key, Fault(shard, key, entry.offset, reason))
    else:
        stored = Stored(entry.name, extension, number, Member(entry.offset, entry.size))
        contents.members.setdefault(key, []).append(stored)
    return key


def _unusable(entry: Entry, extension: str, *, after_damage: bool) -> str:
    """Why a member cannot be read; empty if it can."""
    if entry.kind == "link":
        return f"the member .{extension} is a link, not a file; write the shard again with `tar --hard-dereference -h`"
    if entry.kind == "sparse":
        return f"the member .{extension} is stored as a sparse file; write the shard again without `--sparse`"
    if shown(entry.name) != entry.name:
        return f"the name of the member .{extension} is not UTF-8"
    if after_damage and entry.shortened:
        return f"the name of the member .{extension} may have been longer; the damage before it has taken the rest"
    return ""


def _disorder(shard: str, key: str, stored: Sequence[Stored]) -> Fault | None:
    seen: dict[str, Member] = {}
    for one in stored:
        if one.extension in seen:
            first = seen[one.extension].offset
            return Fault(
                shard, key, one.member.offset, f"the member .{one.extension} occurs twice, first at byte {first}"
            )
        seen[one.extension] = one.member
    astray = apart(stored)
    if astray is None:
        return None
    reason = "its members are not adjacent; `viewfold data repair` brings them together, as does `tar --sort=name`"
    return Fault(shard, key, astray.member.offset, reason)


def image_fault(shard: str, sample: ShardSample) -> Fault | None:
    """Why a sample's images cannot be told from its members; None where they can."""
    try:
        sample.images(shard)
    except ShardError as error:
        first = min(member.offset for member in sample.members.values())
        return Fault(shard, sample.key, first, error.reason)
    return None
