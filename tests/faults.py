"""Shards broken on purpose, one fault each, and where the fault lies.

Every broken shard is made of the same six samples `k0` ... `k5`, each a JPEG and a JSON; what is broken is in `k3`.
"""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from tiny import draw, encode

KEYS = tuple(f"k{n}" for n in range(6))
BLOCK = tarfile.BLOCKSIZE

Members = list[tuple[str, bytes]]


@dataclass(frozen=True)
class Broken:
    """One way in which a shard can be broken."""

    name: str
    make: Callable[[], tuple[bytes, int]]
    """The shard, and the byte at which the fault is to be found."""
    reason: str
    """A pattern of what is said of it."""
    lost: str = "k3"
    """Keys that cannot be used, and are not in the repaired shard."""
    key: str = "k3"
    """What the fault is found under: empty where it is one of the shard."""
    seen_in: Literal["headers", "json", "image"] = "headers"
    """What must be read to find it: indexing reads headers and JSON."""
    mended: bool = False
    """Whether a repair keeps the sample."""


@cache
def sound() -> tuple[tuple[str, bytes], ...]:
    """The members of the six samples."""
    members = []
    for number, key in enumerate(KEYS):
        ground, ink = (40 * number, 90, 160), (250, 40 * number, 20)
        picture = draw(number % 3, np.array([0.1 * number, 0.2, 0.0]), ground=ground, ink=ink, size=32)
        about = {"label": f"class-{number % 2}", "latents": [[0.5, float(number)]]}
        members += [(f"{key}.jpg", encode(picture, "JPEG", quality=90)), (f"{key}.json", json.dumps(about).encode())]
    return tuple(members)


def tar_bytes(members: Sequence[tuple[str, bytes]]) -> bytes:
    """A tar of these members in this order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def start_of(name: str, members: Sequence[tuple[str, bytes]], *, nth: int = 0) -> int:
    """The byte at which the contents of a member begin; its header is the block before."""
    position, met = 0, 0
    for found, data in members:
        if found == name and (met := met + 1) > nth:
            return position + BLOCK
        position += BLOCK + -(-len(data) // BLOCK) * BLOCK
    raise KeyError(name)


def end_of(members: Sequence[tuple[str, bytes]]) -> int:
    """The byte at which the end mark begins."""
    return sum(BLOCK + -(-len(data) // BLOCK) * BLOCK for _, data in members)


def write(broken: Broken, path: Path) -> int:
    """Write the broken shard; the byte at which its fault is to be found."""
    data, offset = broken.make()
    path.write_bytes(data)
    return offset


def with_contents(name: str, contents: bytes) -> tuple[bytes, int]:
    """The sound shard with other contents of one member."""
    members = [(found, contents if found == name else data) for found, data in sound()]
    return tar_bytes(members), start_of(name, members)


def overwritten(name: str, byte: bytes) -> tuple[bytes, int]:
    """The sound shard with the header of one member overwritten."""
    data, header = bytearray(tar_bytes(sound())), start_of(name, sound()) - BLOCK
    data[header : header + BLOCK] = byte * BLOCK
    return bytes(data), header


def cut(name: str, keep: int) -> tuple[bytes, int]:
    """The sound shard cut `keep` bytes after the beginning of a member's contents; the fault lies at `name`."""
    start = start_of(name, sound())
    return tar_bytes(sound())[: start + keep], start if keep > 0 else start - BLOCK


def reordered(order: Sequence[str], name: str, *, nth: int = 0) -> tuple[bytes, int]:
    """The members of these names in this order; the fault lies at the `nth` of them called `name`."""
    contents = dict(sound())
    members = [(found, contents[found]) for found in order]
    return tar_bytes(members), start_of(name, members, nth=nth)


def without_end_mark() -> tuple[bytes, int]:
    end = end_of(sound())
    return tar_bytes(sound())[:end], end


def key_shared_by_two() -> tuple[bytes, int]:
    contents = dict(sound())
    members = [*sound(), ("k3.jpg", contents["k0.jpg"]), ("k3.json", contents["k0.json"])]
    return tar_bytes(members), start_of("k3.jpg", members, nth=1)


def two_tars() -> tuple[bytes, int]:
    first = sound()[:6]
    return tar_bytes(first) + tar_bytes(sound()[6:]), end_of(first)


def as_link() -> tuple[bytes, int]:
    data, header = bytearray(tar_bytes(sound())), start_of("k3.json", sound()) - BLOCK
    info = tarfile.TarInfo("k3.json")
    info.type, info.linkname = tarfile.LNKTYPE, "k2.json"
    size = len(dict(sound())["k3.json"])
    data[header : header + BLOCK + -(-size // BLOCK) * BLOCK] = info.tobuf(tarfile.USTAR_FORMAT)
    return bytes(data), header + BLOCK


def bomb(side: int = 30_000) -> bytes:
    """A PNG of some hundred bytes that says it is `side` pixels square."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


JPEG = dict(sound())["k3.jpg"]
MORE = b'{"latents": [[1], [2]]}'
NAMES = [name for name, _ in sound()]
BEHIND = [name for name in NAMES if name != "k3.json"] + ["k3.json"]

FAULTS = (
    Broken("cut in a member", lambda: cut("k3.jpg", 100), "cut short at byte", lost="k3 k4 k5"),
    Broken("cut in a header", lambda: cut("k3.json", -300), r"lost its \.json", lost="k3 k4 k5"),
    Broken("cut between samples", lambda: cut("k3.jpg", -BLOCK), "no end mark", lost="k3 k4 k5", key=""),
    Broken("no end mark", without_end_mark, "no end mark", lost="", key=""),
    Broken("no bytes", lambda: (b"", 0), "empty file of 0 bytes", lost=" ".join(KEYS), key=""),
    Broken("no tar", lambda: (b"GIF89a" * 500, 0), "not a plain tar", lost=" ".join(KEYS), key=""),
    Broken("header overwritten", lambda: overwritten("k3.json", b"x"), r"lost its \.json"),
    Broken("header zeroed", lambda: overwritten("k3.json", b"\0"), r"lost its \.json"),
    Broken("header of an image overwritten", lambda: overwritten("k3.jpg", b"x"), r"lost its \.jpg"),
    Broken("first header overwritten", lambda: overwritten("k0.jpg", b"x"), "damaged header", key="", lost="k0"),
    Broken("a second tar behind", two_tars, "zeros where a header should be", key="", lost=""),
    Broken("no image", lambda: reordered([n for n in NAMES if n != "k3.jpg"], "k3.json"), "no image among"),
    Broken("a link", as_link, "is a link"),
    Broken("a member twice", lambda: reordered([*NAMES, "k3.jpg"], "k3.jpg", nth=1), "twice", lost="", mended=True),
    Broken("a member twice with other bytes", key_shared_by_two, r"\.jpg occurs twice"),
    Broken("members apart", lambda: reordered(BEHIND, "k3.json"), "not adjacent|lay apart", lost="", mended=True),
    Broken("a JSON that is none", lambda: with_contents("k3.json", b"{"), "JSON cannot be read", seen_in="json"),
    Broken("latents of other images", lambda: with_contents("k3.json", MORE), "latents have shape", seen_in="json"),
    Broken("no JPEG", lambda: with_contents("k3.jpg", b"no image"), "not an image", seen_in="image"),
    Broken("half a JPEG", lambda: with_contents("k3.jpg", JPEG[: len(JPEG) // 2]), "cut short", seen_in="image"),
    Broken("zeroed JPEG", lambda: with_contents("k3.jpg", bytes(len(JPEG))), "not an image", seen_in="image"),
    Broken("an image of no bytes", lambda: with_contents("k3.jpg", b""), r"0 bytes", seen_in="image"),
    Broken("a bomb", lambda: with_contents("k3.jpg", bomb()), "pixels", seen_in="image"),
)  # fmt: skip
"""Every kind of fault. A sample without its JSON is none."""
