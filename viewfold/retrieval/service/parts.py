"""How many parts an image file is in, counted before PIL steps through them one by one.

PIL reads chunks, segments and blocks in Python, so that a file of a million empty ones keeps it busy for seconds.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from PIL.JpegImagePlugin import MARKER

from viewfold.errors import InvalidInput

_MOST = 2000
_BYTES_PER_PART = 4096  # a large PNG comes in thousands of chunks of 8 KiB

_START_OF_SCAN = 0xFFDA
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B


def check_parts(data: bytes) -> None:
    """Refuse a file in more parts than a picture has: `_MOST`, and one more for each `_BYTES_PER_PART`.

    Raises:
        InvalidInput: the message is a reason, without the image's name.
    """
    most = _MOST + len(data) // _BYTES_PER_PART
    for start, walk in _WALKS.items():
        if data.startswith(start) and sum(1 for _ in islice(walk(data), most + 1)) > most:
            raise InvalidInput(f"broken image: {len(data)} bytes in more than {most} parts; save it anew")


def _png(data: bytes) -> Iterator[None]:
    """Chunks."""
    position = 8
    while position + 8 <= len(data) and data[position + 4 : position + 8] != b"IEND":
        yield
        position += 12 + int.from_bytes(data[position : position + 4], "big")


def _jpeg(data: bytes) -> Iterator[None]:
    """Segments before the first scan, and the bytes between them that PIL looks at."""
    position = 2
    while position + 1 < len(data):
        yield
        marker = data[position] << 8 | data[position + 1]
        if marker < 0xFF00 or marker == 0xFFFF:  # junk, or padding
            position += 1
        elif marker == 0xFF00:
            position += 2
        elif marker not in MARKER or marker == _START_OF_SCAN:
            return
        elif MARKER[marker][2] is None:  # without content
            position += 2
        else:
            position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))


def _gif(data: bytes) -> Iterator[None]:
    """Blocks before the first picture."""
    colours = 3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0
    position = 13 + colours
    while position < len(data) and data[position] not in (_IMAGE, _TRAILER):
        yield
        if data[position] != _EXTENSION:
            position += 1
            continue
        position += 2
        while position < len(data) and data[position]:
            yield
            position += 1 + data[position]
        position += 1


def _tiff(data: bytes) -> Iterator[None]:
    """Entries of the first directory."""
    order = "little" if data.startswith(b"I") else "big"
    place, width, size = (8, 8, 8) if 43 in data[2:4] else (4, 4, 2)
    first = int.from_bytes(data[place : place + width], order)  # type: ignore[arg-type]  # one of the two literals
    count = int.from_bytes(data[first : first + size], order)  # type: ignore[arg-type]
    for _ in range(count):
        yield


_WALKS: dict[bytes, Callable[[bytes], Iterator[None]]] = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF8": _gif,
    b"II": _tiff,
    b"MM": _tiff,
}
