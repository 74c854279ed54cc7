"""Which FAISS index suits how many vectors of which length, how much memory and how much recall."""

import math
import re

from viewfold.errors import InvalidInput

FLAT_ROWS = 50_000
"""Up to here exact search takes a few milliseconds, and nothing needs to be approximate."""
HNSW_ROWS = 200_000
"""Beyond, filling a graph, one vector after the other, takes long, and inverted lists are filled in parallel."""
_HNSW_LINKS = 32
_EXACT = 0.999  # a recall that no approximate index is asked for
_ROWS_PER_LIST = 64  # of the training sample; FAISS itself warns below 39
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def choose_factory(num_rows: int, dim: int, *, index_bytes: float, recall_target: float) -> str:
    """The FAISS factory string for `num_rows` vectors of `dim` numbers, in at most `index_bytes` of memory.

    The first of these that fits:

    1. `Flat`, where exact search is fast enough (`FLAT_ROWS`) or the recall target is above 0.999;
    2. `HNSW32` up to `HNSW_ROWS`;
    3. `IVF,Flat`;
    4. `IVF,PQ,Refine(SQfp16)`, then `Refine(SQ8)`: codes to look with, and 2 or 1 bytes a number to decide;
    5. `IVF,PQ`, the longest codes that fit: the recall target may be out of reach; what was reached is measured.

    Raises:
        InvalidInput: not even the shortest codes fit; says what they take.
    """
    if num_rows <= FLAT_ROWS or recall_target > _EXACT:
        ladder = ["Flat"] if recall_target > _EXACT or flat_bytes(num_rows, dim) <= index_bytes else []
    else:
        ladder = ["HNSW32"] if num_rows <= HNSW_ROWS else []
    if recall_target <= _EXACT:
        ladder += _inverted(num_rows, dim)
    for factory in ladder:
        if index_size(factory, num_rows, dim) <= index_bytes:
            return factory
    smallest = ladder[-1] if ladder else "Flat"
    raise InvalidInput(
        f"{num_rows} vectors of {dim} numbers take {show_bytes(index_size(smallest, num_rows, dim))} as {smallest}, "
        f"and the memory cap leaves {show_bytes(index_bytes)} for the index; raise the cap"
        + (" or lower the recall target" if recall_target > _EXACT else "")
    )


def index_size(factory: str, num_rows: int, dim: int) -> int:
    """Bytes in memory of an index that `choose_factory` names, filled with `num_rows` vectors."""
    if factory == "Flat":
        return flat_bytes(num_rows, dim)
    if factory.startswith("HNSW"):
        return flat_bytes(num_rows, dim) + num_rows * hnsw_row_bytes(_HNSW_LINKS)
    lists = re.match(r"IVF(\d+),", factory)
    assert lists is not None, f"{factory} is none of ours"
    code = re.search(r",PQ(\d+)", factory)
    row = int(code[1]) if code else 4 * dim
    row += 2 * dim if "SQfp16" in factory else dim if "SQ8" in factory else 0
    return num_rows * (row + IVF_ROW_BYTES) + int(lists[1]) * dim * 4


IVF_ROW_BYTES = 16
"""A vector's number in its list, and the place of each number: lists give vectors back by number only with both."""


def flat_bytes(num_rows: int, dim: int) -> int:
    """Bytes of the vectors themselves in float32."""
    return 4 * num_rows * dim


def hnsw_row_bytes(links: int) -> int:
    """Bytes of one vector's links: two for each of `links` at the bottom, the levels above, and where they begin."""
    return 8 * links + 4 * links // 16 + 12


def num_lists(num_rows: int) -> int:
    """Inverted lists for `num_rows` vectors: about `4 sqrt(n)`, a power of two, with enough vectors to train each."""
    wanted = 4 * math.sqrt(num_rows)
    most = max(1.0, num_rows / _ROWS_PER_LIST)
    return 1 << int(math.log2(min(wanted, most)))


def sample_rows(num_rows: int, centroids: int) -> int:
    """Vectors to train `centroids` on: 64 for each, all of them where there are fewer."""
    return min(num_rows, max(_ROWS_PER_LIST * centroids, 1))


def parse_bytes(text: str) -> int:
    """`2GiB`, `500 MB` or a plain number of bytes.

    Raises:
        InvalidInput: it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match and _UNITS.get(match[2].upper())
    if match is None or unit is None:
        raise InvalidInput(f"memory {text!r}: write a number with B, KB, MB, GB, KiB, MiB or GiB, such as 2GiB")
    return round(float(match[1]) * unit)


def show_bytes(count: float) -> str:
    """For people: `1.5 GiB`, `340 MiB`."""
    if count >= 1 << 30:
        return f"{count / (1 << 30):.2f} GiB"
    return f"{math.ceil(count / (1 << 20))} MiB"


def _inverted(num_rows: int, dim: int) -> list[str]:
    lists = num_lists(num_rows)
    codes = sorted({size for size in (dim // 2, dim // 4, dim // 8, dim // 16, dim // 32) if size and dim % size == 0})
    longest = codes[::-1] or [1]
    names = [f"IVF{lists},Flat"]
    if num_rows < 39 * 256:  # too few to train a codebook of 256
        return names
    names += [f"IVF{lists},PQ{longest[0]},Refine({kind})" for kind in ("SQfp16", "SQ8")]
    return names + [f"IVF{lists},PQ{size}" for size in longest]
