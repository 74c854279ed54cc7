"""The members of a tar, one header after the other, going on behind whatever is damaged.

Python's `tarfile` stops without a word at a damaged header and at a missing end: both would lose samples in silence.
"""

import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2048 * _BLOCK
_END_MARK = bytes(_BLOCK)
_LONGEST_TAIL = 128 * _BLOCK  # `tar` fills up to 20 blocks; a file whose place was kept before it came has more
_LONGEST_NAMES = 1 << 20  # bytes of an extended header; real ones have hundreds
_NAME_FIELD = 100
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")


Kind = Literal["file", "link", "sparse", "other"]
"""`sparse` is a file stored without its holes, whose bytes are not those of the file."""

_EXTENDED = {
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE,
}  # fmt: skip
_KINDS: dict[bytes, Kind] = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.CONTTYPE: "file",
    tarfile.GNUTYPE_SPARSE: "sparse",
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
}


class Entry(NamedTuple):
    """One member that is whole."""

    name: str
    """As stored; bytes that are not UTF-8 are surrogates."""
    offset: int
    """First byte of its contents."""
    size: int
    kind: Kind
    shortened: bool
    """Whether the name may be the rest of a longer one whose own header is lost."""


class Damage(NamedTuple):
    """What is not as a tar should be, and where."""

    offset: int
    reason: str
    name: str = ""
    """The member that is cut, where that is known."""


_Next = tuple[Entry | Damage | None, int | None]
"""What was found at a header, and where the next one begins: None at the end."""


def walk_tar(file: BinaryIO) -> Iterator[Entry | Damage]:
    """Every member in order, and every damage where it is met; after it, what follows the next header that is sound."""
    end = file.seek(0, 2)
    names = _LongNames()
    position: int | None = 0
    while position is not None:
        block = _read(file, position, _BLOCK)
        found, position = _look(file, position, block, end, names)
        if isinstance(found, Damage):
            names.clear()
        if found is not None:
            yield found


def _look(file: BinaryIO, position: int, block: bytes, end: int, names: "_LongNames") -> _Next:
    if end == 0:
        return Damage(0, "an empty file of 0 bytes; copy or write it again"), None
    if len(block) < _BLOCK:
        reason = f"cut short at byte {end}: no end mark follows the last member; copy it again"
        return Damage(min(position, end), reason), None
    if block == _END_MARK:
        return _end(file, position, end)
    info = _header(block)
    if info is None:
        return _damaged(file, position)
    if info.type in _EXTENDED:
        return _extended(file, position, info, names)
    return _member(file, position + _BLOCK, info, end, names)


def _end(file: BinaryIO, position: int, end: int) -> _Next:
    """The end mark at `position`: only zeros may follow it, and few, or something was overwritten or never came."""
    file.seek(position)
    while chunk := file.read(_CHUNK):
        if chunk.strip(b"\0"):
            following = _next_header(file, position)
            if following is None:
                return Damage(position, f"zeros at byte {position} are followed by bytes of no member"), None
            reason = f"zeros where a header should be, at byte {position}: the next member is at byte {following}"
            return Damage(position, f"{reason}; copy it again"), following
    if end - position > _LONGEST_TAIL:
        reason = f"from byte {position} to its end at {end} there are zeros, more than an end mark; copy it again"
        return Damage(position, reason), None
    return None, None


def _damaged(file: BinaryIO, position: int) -> _Next:
    following = _next_header(file, position + _BLOCK)
    if following is not None:
        reason = f"damaged header at byte {position}: the next member is at byte {following}; copy it again"
    elif position:
        reason = f"damaged at byte {position}: no end mark and no member follows; copy it again"
    else:
        reason = "not a plain tar file: no header in it is sound"
    return Damage(position, reason), following


def _extended(file: BinaryIO, position: int, info: tarfile.TarInfo, names: "_LongNames") -> _Next:
    data = position + _BLOCK
    try:
        names.read(info.type, _read(file, data, min(info.size, _LONGEST_NAMES)))
    except ValueError:
        reason = f"damaged extended header at byte {position}; copy it again"
        return Damage(position, reason), _next_header(file, data)
    return None, _after(data, info.size)


def _member(file: BinaryIO, data: int, info: tarfile.TarInfo, end: int, names: "_LongNames") -> _Next:
    name = info.name if names.name is None else names.name
    size = info.size if names.size is None else names.size
    kind: Kind = "sparse" if names.sparse else _KINDS.get(info.type, "other")
    entry = Entry(name, data, size, kind, names.name is None and _may_be_shortened(info.name))
    names.clear()
    if info.type == tarfile.GNUTYPE_SPARSE:  # its map may go on in blocks that are no headers
        return entry, _next_header(file, data) or end
    if kind not in ("file", "sparse") and info.type in tarfile.SUPPORTED_TYPES:
        return entry, data  # links and folders have no contents, whatever size is written
    if data + size > end:
        reason = f"cut short at byte {end}, inside a member of {size} bytes that begins at byte {data}; copy it again"
        return Damage(min(data, end), reason, name), None
    return entry, _after(data, size)


class _LongNames:
    """What the extended headers before a member say of it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.name: str | None = None
        self.size: int | None = None
        self.sparse = False

    def read(self, kind: bytes, data: bytes) -> None:
        """Take in one extended header.

        Raises:
            ValueError: it cannot be read.
        """
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.name = _text(data.split(b"\0", 1)[0])
        elif kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            for keyword, value in _pax_records(data):
                if keyword == b"size":
                    self.size = abs(int(value))
                elif keyword in (b"path", b"GNU.sparse.name"):
                    self.name = _text(value)
                self.sparse |= keyword.startswith(b"GNU.sparse.")


def _next_header(file: BinaryIO, position: int) -> int | None:
    """The first block from `position` on that is a sound header."""
    file.seek(position)
    while chunk := file.read(_CHUNK):
        for start in range(0, len(chunk), _BLOCK):
            if _header(chunk[start : start + _BLOCK]) is not None:
                return position + start
        position += len(chunk)
    return None


def _header(block: bytes) -> tarfile.TarInfo | None:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    return info if info.size >= 0 else None


def _may_be_shortened(name: str) -> bool:
    """Whether a header's own name fills its field, or has a question mark: what writers leave of a long name."""
    return len(name.encode("utf-8", "surrogateescape")) >= _NAME_FIELD or "?" in name


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keyword and value of each `LENGTH KEYWORD=VALUE` line of an extended header."""
    position = 0
    while position < len(data) and data[position]:
        match = _PAX_RECORD.match(data, position)
        stop = position + int(match[1]) if match else 0
        if match is None or stop <= match.end() or stop > len(data) or data[stop - 1 : stop] != b"\n":
            raise ValueError("not a record")
        yield match[2], data[match.end() : stop - 1]
        position = stop


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _after(data: int, size: int) -> int:
    return data + -(-size // _BLOCK) * _BLOCK


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
