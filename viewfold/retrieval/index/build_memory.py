"""How much memory a build takes: reckoned before it begins, measured while it runs."""

import contextlib
import ctypes
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from viewfold.errors import InvalidInput
from viewfold.retrieval.index.factory import flat_bytes, sample_rows, show_bytes

_STATUS = Path("/proc/self/status")
_ALLOWANCE = 96 << 20  # what FAISS, Arrow, BLAS and the allocator hold beside what is counted; measured
_RECORDS_FACTOR = 4  # read, put in order, written, with what Arrow holds back; measured
_CODEBOOK_ROWS = 65536  # FAISS trains codebooks and rotations on no more
_LEAST_PER_CENTROID = 39  # FAISS's own minimum
_LEAST_UNCOUNTED = 4096  # to train what has no centroids; FAISS would take a single vector, and find nothing with it


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes at the three moments at which a build holds most; `peak` is the largest, over the process itself."""

    process: int
    """Resident before the build begins: Python and its libraries."""
    records: int
    """While keys are put in order: the table of records, twice over."""
    training: int
    """While the index is trained: the sample, and what FAISS makes of it."""
    filling: int
    """While the index is filled, measured and written: the index, a block of vectors, and the next shard."""
    sample_rows: int
    """Vectors to train on."""
    block_rows: int
    """Vectors that are read at a time."""
    shard_rows: int
    """Vectors that one task adds."""

    @property
    def peak(self) -> int:
        """Bytes that the process will hold at most."""
        return self.process + max(self.records, self.training, self.filling) + _ALLOWANCE

    def require(self, cap: int, factory: str) -> None:
        """Refuse a cap that cannot be kept.

        Raises:
            InvalidInput: with the arithmetic.
        """
        if self.peak > cap:
            raise InvalidInput(
                f"memory cap {show_bytes(cap)}: {factory} needs {show_bytes(self.peak)}, which is "
                f"{show_bytes(self.process)} for the process, {show_bytes(_ALLOWANCE)} beside, and the most of "
                f"{show_bytes(self.records)} for records, {show_bytes(self.training)} to train and "
                f"{show_bytes(self.filling)} to fill; raise the cap, or leave the factory to viewfold"
            )


def plan_memory(
    num_rows: int,
    dim: int,
    *,
    index_bytes: int,
    centroids: int | None,
    record_bytes: int,
    process: int,
    cap: int | None,
) -> MemoryPlan:
    """What a build takes, with the training sample and the blocks made as small as `cap` asks for.

    `index_bytes` is the filled index, `centroids` the largest codebook that has to be trained: 0 where something else
    is, such as ranges of numbers or a rotation, None where nothing is.
    """
    free = None if cap is None else max(0, cap - process - _ALLOWANCE)
    row = 4 * dim
    block_bytes = 32 << 20 if free is None else min(32 << 20, max(1 << 20, free // 32))
    block_rows = max(256, block_bytes // row)
    # k-means holds its sample, and rotations and codebooks some copies of a part of it.
    rows, fixed = 0, 0
    if centroids is not None:
        rows = sample_rows(num_rows, centroids) if centroids else min(num_rows, _CODEBOOK_ROWS)
        fixed = 3 * centroids * row + 4 * min(num_rows, _CODEBOOK_ROWS) * row
        fits = rows if free is None else int((free - fixed) // (2 * row))
        rows = max(min(rows, fits), min(num_rows, _LEAST_PER_CENTROID * centroids or _LEAST_UNCOUNTED))
    shard_rows = max(block_rows, min(num_rows, 262_144))
    shard_bytes = index_bytes * shard_rows // max(num_rows, 1)
    if free is not None and shard_bytes > free // 8:
        shard_rows = max(1024, int(shard_rows * (free // 8) / shard_bytes))
        shard_bytes = index_bytes * shard_rows // num_rows
    return MemoryPlan(
        process=process,
        records=round(_RECORDS_FACTOR * record_bytes) + 32 * num_rows,
        training=2 * rows * row + fixed,
        filling=index_bytes + 2 * shard_bytes + 4 * block_rows * row + 40 * num_rows,
        sample_rows=rows,
        block_rows=block_rows,
        shard_rows=shard_rows,
    )


def index_budget(num_rows: int, dim: int, *, process: int, cap: int) -> int:
    """Bytes that `cap` leaves for the filled index itself."""
    free = cap - process - _ALLOWANCE
    blocks = 4 * min(32 << 20, max(1 << 20, free // 32))
    return max(0, free - 40 * num_rows - blocks - min(free // 4, flat_bytes(min(num_rows, 262_144), dim)))


class PeakMemory:
    """The largest resident size of this process since the object was made."""

    def __init__(self) -> None:
        """Starts Linux's own counter anew where that is allowed; elsewhere the largest of the whole process counts."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def read(self) -> int:
        """Bytes."""
        return peak_bytes()


def peak_bytes() -> int:
    """The largest resident size of this process since it began, or since the last `PeakMemory`."""
    return _status("VmHWM") or _usage()


def release_memory() -> None:
    """Give back to the system what Arrow and the allocator keep for later: it counts as resident all the same."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; other systems give it back by themselves
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """What this process holds now; its largest where the system does not say."""
    return _status("VmRSS") or _usage()


def _status(name: str) -> int:
    if not _STATUS.is_file():
        return 0
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def _usage() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
