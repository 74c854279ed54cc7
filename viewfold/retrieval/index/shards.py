"""One index whose rows lie in several places: each part is asked on its own, and the answers merge to those of one.

A part searches its own rows with the centroids and settings of the whole, so that what all parts find holds what the
whole would have found; the merge then cuts and orders it by the rule of `VectorIndex`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval.index.bundle import INDEX, BundleFiles, BundleInfo, IndexBundle, read_info, read_records
from viewfold.retrieval.index.candidates import Candidates
from viewfold.retrieval.index.faiss_build import lists_of
from viewfold.retrieval.index.faiss_index import CosineIndex, load_faiss, refusal
from viewfold.retrieval.index.files import check_sha256, steadily
from viewfold.retrieval.index.pushdown import better_exact, search_parameters, takes_selectors
from viewfold.retrieval.index.vector_index import MARGIN, VectorIndex, unit_rows

_BLOCK = 1 << 16  # rows copied at a time

T = TypeVar("T")
Waiting = Callable[[], T]
"""An answer that was asked for: calling it waits for it."""


@dataclass(frozen=True, eq=False)
class PartFound:
    """What one part of an index found, `[query, candidate]`, before it is held against the other parts."""

    rows: NDArray[np.int64]
    """Positions in the whole index; -1 where there were no more."""
    near: NDArray[np.float32]
    """Inner products as FAISS ranks by them."""
    scores: NDArray[np.float64]
    """Cosine, rounded to 1e-6."""


class Part(Protocol):
    """Some rows of an index, here or on another machine."""

    @property
    def first(self) -> int:
        """The first of its rows, by its position in the whole index."""

    @property
    def last(self) -> int:
        """The row behind its last one."""

    def nearest(
        self, vectors: NDArray[np.floating[Any]], fetch: int, allowed: NDArray[np.bool_] | None, exhaustive: bool
    ) -> Waiting[PartFound]:
        """Up to `fetch` of its rows for each vector, as `VectorIndex.candidates` finds them; `allowed` is a mask of its
        own rows."""

    def vectors(self, rows: NDArray[np.int64]) -> Waiting[NDArray[np.float32]]:
        """`[row, dim]`: what it holds of these rows of the whole index, all of which are its own."""


@dataclass(frozen=True, eq=False)
class IndexPart:
    """A `Part` in this process."""

    index: CosineIndex
    first: int

    @classmethod
    def open(cls, folder: Path, number: int, of: int, *, bundle_id: str | None = None) -> "IndexPart":
        """Part `number` (from 0) of the index of a bundle, cut into `of` parts of as many rows; one part is the whole.

        The index file is held against its sha256 and mapped, so that little beside the part's own rows is in memory.

        Raises:
            InvalidInput: the index is damaged, of a kind that cannot be cut, or has fewer rows than parts.
            ArtifactMismatch: the bundle in `folder` is not the one of `bundle_id`; names both.
        """
        return steadily(folder, lambda: cls._read(folder, number, of, bundle_id))

    @classmethod
    def _read(cls, folder: Path, number: int, of: int, bundle_id: str | None) -> "IndexPart":
        info = _info(folder, bundle_id)
        check_sha256(folder, {INDEX: info.files[INDEX]})
        if of == 1:
            return cls(CosineIndex.read(folder / INDEX), 0)
        first, last = part_rows(info.n, number, of)
        return cls(CosineIndex(_cut(folder / INDEX, info.factory, first, last)), first)

    @property
    def last(self) -> int:
        """The row behind its last one."""
        return self.first + len(self.index)

    def nearest(
        self, vectors: NDArray[np.floating[Any]], fetch: int, allowed: NDArray[np.bool_] | None, exhaustive: bool
    ) -> Waiting[PartFound]:
        """See `Part`; found when the answer is waited for."""
        return partial(self._nearest, vectors, fetch, allowed, exhaustive)

    def vectors(self, rows: NDArray[np.int64]) -> Waiting[NDArray[np.float32]]:
        """See `Part`."""
        return partial(self.index.vectors, rows - self.first)

    def _nearest(
        self, vectors: NDArray[np.floating[Any]], fetch: int, allowed: NDArray[np.bool_] | None, exhaustive: bool
    ) -> PartFound:
        faiss, raw = load_faiss(), self.index.faiss_index
        queries = unit_rows(vectors.astype(np.float64), [f"query {i}" for i in range(len(vectors))]).astype(np.float32)
        if exhaustive or (allowed is not None and not takes_selectors(faiss, raw)):
            seen = self.index.candidates(vectors, fetch, allowed=allowed, exhaustive=True)
            near = np.einsum("qd,qmd->qm", queries, self.index.vectors(np.maximum(seen.rows, 0)))
            return PartFound(self._whole(seen.rows), near, seen.scores)
        parameters = search_parameters(faiss, raw, allowed)
        near, rows = raw.search(queries, min(fetch, len(self.index)), params=parameters)
        scores = np.where(rows < 0, -np.inf, self.index.similarity(vectors, np.maximum(rows, 0)))
        return PartFound(self._whole(rows), near, scores)

    def _whole(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(rows < 0, -1, rows + self.first)


class ShardedIndex(VectorIndex):
    """Parts that answer as the one index that they were cut from."""

    def __init__(self, parts: Sequence[Part], dim: int) -> None:
        """`parts` in the order of their rows, which follow one another from 0 on."""
        ends = [0, *(part.last for part in parts)]
        assert [part.first for part in parts] == ends[:-1], "parts have to follow one another"
        self._parts = parts
        self._ends = np.array(ends)
        self._dim = dim

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def dim(self) -> int:
        """See `VectorIndex`."""
        return self._dim

    def candidates(
        self,
        vectors: NDArray[np.floating[Any]],
        fetch: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        exhaustive: bool = False,
    ) -> Candidates:
        """See `VectorIndex`; all parts are asked at once, and the best `fetch` of their answers are kept."""
        num_queries = len(self._queries(vectors))
        total = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if not total or not num_queries:
            return Candidates.none(num_queries)
        exhaustive |= allowed is not None and better_exact(allowed)
        asked = [
            part.nearest(vectors, fetch, None if allowed is None else allowed[part.first : part.last], exhaustive)
            for part in self._parts
        ]
        return _merged([wait() for wait in asked], fetch, total)

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """See `VectorIndex`."""
        flat = rows.ravel()
        owner = np.searchsorted(self._ends, flat, side="right") - 1
        places = [np.flatnonzero(owner == number) for number in range(len(self._parts))]
        asked = [
            (place, part.vectors(flat[place])) for part, place in zip(self._parts, places, strict=True) if place.size
        ]
        held = np.empty((flat.size, self.dim), dtype=np.float32)
        for place, wait in asked:
            held[place] = wait()
        return held.reshape(*rows.shape, self.dim)


def open_sharded(
    folder: Path, parts: Callable[[BundleInfo], Sequence[Part]], *, bundle_id: str | None = None
) -> IndexBundle:
    """A bundle whose index is elsewhere: in the parts that `parts` names for it. Its own index file is not read.

    Raises:
        InvalidInput: there is no bundle, or a damaged one; names the file.
        ArtifactMismatch: another format, or not the bundle of `bundle_id`; names both.
    """

    def read() -> tuple[BundleInfo, pa.Table, BundleFiles]:
        info = _info(folder, bundle_id)
        check_sha256(folder, {name: digest for name, digest in info.files.items() if name != INDEX})
        return info, read_records(folder), BundleFiles.open(folder, info)

    info, records, held = steadily(folder, read)
    return IndexBundle(folder, info, records, ShardedIndex(parts(info), info.dim), held)


def part_rows(num_rows: int, number: int, of: int) -> tuple[int, int]:
    """The first row of part `number` of `of`, and the row behind its last one; sizes differ by one at most.

    Raises:
        InvalidInput: there are fewer rows than parts.
    """
    if num_rows < of:
        raise InvalidInput(f"an index of {num_rows} images cannot be cut into {of} parts; ask for fewer")
    return num_rows * number // of, num_rows * (number + 1) // of


def _info(folder: Path, expected: str | None) -> BundleInfo:
    info = read_info(folder)
    if expected not in (None, info.id):
        raise ArtifactMismatch(f"{folder}: holds index {info.id} now, and {expected} is asked for; load it again")
    return info


def _merged(found: Sequence[PartFound], fetch: int, total: int) -> Candidates:
    """What one index would have found: the best `fetch` by FAISS's own scores, then ordered by the rounded ones."""
    rows, near, scores = (
        np.concatenate([getattr(part, name) for part in found], axis=1) for name in ("rows", "near", "scores")
    )
    near = np.where(rows < 0, -np.inf, near)
    kept = np.lexsort((rows, -near))[:, :fetch]
    rows, near, scores = (np.take_along_axis(held, kept, 1) for held in (rows, near, scores))
    count = np.count_nonzero(rows >= 0, axis=1)
    complete, dry = count >= total, count < fetch
    order = np.lexsort((np.where(rows < 0, np.iinfo(np.int64).max, rows), -scores))
    return Candidates(
        rows=np.take_along_axis(rows, order, 1),
        scores=np.take_along_axis(scores, order, 1),
        floor=np.where(complete | dry, -np.inf, near[:, -1].astype(np.float64) + MARGIN),
        complete=complete,
        dry=dry,
    )


def _cut(path: Path, factory: str, first: int, last: int) -> Any:
    """A FAISS index of the rows from `first` to before `last`, numbered from 0, trained as the whole."""
    faiss = load_faiss()
    try:
        whole = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        if isinstance(whole, faiss.IndexFlat):
            return _cut_flat(whole, first, last)
        if isinstance(whole, faiss.IndexRefine) or lists_of(whole) is None:
            raise InvalidInput(
                f"{path}: an index of factory {factory!r} cannot be cut into parts; serve it as one, or build it with "
                "'Flat' or inverted lists such as 'IVF1024,Flat'"
            )
        del whole
        return _cut_lists(path, first, last)
    except RuntimeError as error:
        raise InvalidInput(f"{path}: FAISS cannot read this index ({refusal(error)}); build it again") from None


def _cut_flat(whole: Any, first: int, last: int) -> Any:
    part = load_faiss().IndexFlatIP(whole.d)
    for start in range(first, last, _BLOCK):
        part.add(whole.reconstruct_n(start, min(_BLOCK, last - start)))
    return part


def _cut_lists(path: Path, first: int, last: int) -> Any:
    faiss = load_faiss()
    whole, part = (faiss.read_index(str(path), faiss.IO_FLAG_MMAP) for _ in range(2))
    source, target = lists_of(whole), lists_of(part)
    held = faiss.ArrayInvertedLists(target.nlist, target.code_size)
    held.this.disown()  # it belongs to the index from here on
    target.make_direct_map(False)  # the file may hold that of the whole
    target.replace_invlists(held, True)
    target.ntotal = 0
    source.copy_subset_to(target, faiss.InvertedLists.SUBSET_TYPE_ID_RANGE, first, last)
    for number in range(target.nlist):
        size = held.list_size(number)
        if size:
            ids = faiss.rev_swig_ptr(held.get_ids(number), size)
            ids -= first
    part.ntotal = target.ntotal
    return part
