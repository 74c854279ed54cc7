"""FAISS indexes made in parts: trained on a sample, filled shard by shard, merged, tuned. Over raw FAISS indexes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.retrieval.index.build_memory import peak_bytes
from viewfold.retrieval.index.build_vectors import VectorFile
from viewfold.retrieval.index.factory import IVF_ROW_BYTES, hnsw_row_bytes
from viewfold.retrieval.index.faiss_index import check_training_size, load_faiss, refusal

EF_CONSTRUCTION = 80
"""Candidates for each new vector's links in a graph; FAISS's 40 costs recall under the inner product."""
_SNAPSHOTS = 8  # a graph that is being filled is written down this often


def new_index(factory: str, dim: int) -> Any:
    """An untrained FAISS index under the inner product.

    Raises:
        InvalidInput: FAISS does not know the string, cannot build it for this length of vectors, or cannot do with it
            all that a bundle does.
    """
    faiss = load_faiss()
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        graph = graph_of(index)
        if graph is not None:
            graph.hnsw.efConstruction = EF_CONSTRUCTION
        lists = lists_of(index)
    except RuntimeError as error:
        raise InvalidInput(
            f"factory {factory!r}: FAISS refuses it for vectors of {dim} numbers ({refusal(error)}); "
            "'Flat' always works"
        ) from None
    if isinstance(lists, (faiss.IndexIVFFastScan, faiss.IndexIVFAdditiveQuantizer)):
        # The first crashes when it is asked for its vectors, the second raises when it is searched under a mask.
        raise InvalidInput(
            f"factory {factory!r}: inverted lists of fast-scan or additive codes give no vectors back or cannot be "
            f"filtered; use product codes, such as 'IVF{lists.nlist},PQ8'"
        )
    return index


def train_index(index: Any, factory: str, sample: NDArray[np.float32]) -> None:
    """Train an index in place on `[row, dim]` unit vectors, on the GPUs if this FAISS sees any.

    Raises:
        InvalidInput: too few vectors for its codebooks, or FAISS refuses to train or to give vectors back.
    """
    check_training_size(index, factory, len(sample))
    lists = lists_of(index)
    on_gpus = None if lists is None else _on_gpus(lists.d)
    if on_gpus is not None:  # FAISS keeps no reference of its own
        lists.clustering_index = on_gpus
    try:
        index.train(sample)
        probe = load_faiss().clone_index(index)
        probe.add(sample[:1])
        inner = lists_of(probe)
        if inner is not None:
            inner.make_direct_map()
        probe.reconstruct_batch(np.zeros(1, dtype=np.int64))  # scores are computed from what it gives back
    except RuntimeError as error:
        raise InvalidInput(
            f"factory {factory!r}: FAISS refuses it for {len(sample)} vectors of {sample.shape[1]} numbers "
            f"({refusal(error)}); 'Flat' always works"
        ) from None
    finally:
        if on_gpus is not None:
            lists.clustering_index = None


@dataclass(frozen=True)
class ShardTask:
    """Rows that one task adds to a copy of the trained index; files, so that it can run on another machine."""

    trained: Path
    vectors: Path
    first: int
    last: int
    block_rows: int
    out: Path


def fill_shard(task: ShardTask) -> int:
    """Write the filled copy, if no earlier task has; the bytes that this process held at most.

    Linux's counter is not set back here: in the build's own process it counts the steps before as well.
    """
    if not task.out.is_file():
        faiss = load_faiss()
        index = faiss.read_index(str(task.trained))
        vectors = VectorFile.open(task.vectors)
        for first in range(task.first, task.last, task.block_rows):
            index.add(vectors.block(first, min(first + task.block_rows, task.last)))
        write_index(index, task.out)
    return peak_bytes()


ParallelMap = Callable[[Callable[[ShardTask], int], Iterable[ShardTask]], Iterator[int]]
"""Such as the built-in `map`; answers come in the order of the tasks."""


def merge_shards(trained: Path, shards: Iterable[Path]) -> Any:
    """One index of all shards, in their order. Holds the result and one shard at a time."""
    faiss = load_faiss()
    index, paths = faiss.read_index(str(trained)), list(shards)
    base, refine = _base_and_refine(index)
    total = _reserve_lists(base, paths)
    if refine is not None:
        _reserve(refine, total)
    for path in paths:
        other = faiss.read_index(str(path))
        other_base, other_refine = _base_and_refine(other)
        base.merge_from(other_base, base.ntotal)
        if refine is not None:
            refine.merge_from(other_refine, 0)
    index.ntotal = total
    return index


def fill_in_sequence(index: Any, vectors: VectorFile, *, block_rows: int, snapshot: Path) -> Any:
    """Add all vectors in their order. A graph is written to `snapshot` now and then, and goes on from there."""
    graph = graph_of(index)
    if graph is not None and snapshot.is_file():
        index = load_faiss().read_index(str(snapshot))
        graph = graph_of(index)
    _reserve(index, vectors.num_rows)
    written, step = int(index.ntotal), max(1, vectors.num_rows // _SNAPSHOTS)
    while index.ntotal < vectors.num_rows:
        first = int(index.ntotal)
        index.add(vectors.block(first, min(first + block_rows, vectors.num_rows)))
        if graph is not None and vectors.num_rows > index.ntotal >= written + step:
            write_index(index, snapshot)
            written = int(index.ntotal)
    return index


def write_index(index: Any, path: Path) -> None:
    """Write in FAISS's own format, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    load_faiss().write_index(index, str(part))
    part.rename(path)


def index_bytes(index: Any, num_rows: int) -> int:
    """Bytes in memory of this index when it holds `num_rows` vectors."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return index_bytes(index.index, num_rows) + 4 * int(index.d) ** 2
    if isinstance(index, faiss.IndexRefine):
        return index_bytes(index.base_index, num_rows) + index_bytes(index.refine_index, num_rows)
    if isinstance(index, faiss.IndexHNSW):
        links = int(index.hnsw.nb_neighbors(0)) // 2
        return index_bytes(index.storage, num_rows) + num_rows * hnsw_row_bytes(links)
    if isinstance(index, faiss.IndexIVF):
        return num_rows * (int(index.code_size) + IVF_ROW_BYTES) + int(index.nlist) * int(index.d) * 4
    return num_rows * int(index.sa_code_size())


def lists_of(index: Any) -> Any:
    """The inverted lists inside of an index, None where it has none."""
    found = load_faiss().try_extract_index_ivf(index)
    return None if found is None else load_faiss().downcast_index(found)


def graph_of(index: Any) -> Any:
    """The graph (HNSW) inside of an index, None where it has none."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return graph_of(index.index)
    if isinstance(index, faiss.IndexRefine):
        return graph_of(index.base_index)
    return index if isinstance(index, faiss.IndexHNSW) else None


def refine_of(index: Any) -> Any:
    """The step of an index that scores its candidates anew, None where it has none."""
    index = load_faiss().downcast_index(index)
    return index if isinstance(index, load_faiss().IndexRefine) else None


def _base_and_refine(index: Any) -> tuple[Any, Any]:
    faiss = load_faiss()
    refine = refine_of(index)
    if refine is None:
        return index, None
    return faiss.downcast_index(refine.base_index), faiss.downcast_index(refine.refine_index)


def _reserve_lists(index: Any, paths: list[Path]) -> int:
    """Give each list its final room at once: a list that grows by doubling would take up to twice of what it holds.

    Returns how many vectors all shards hold.
    """
    faiss = load_faiss()
    target = lists_of(index)
    inverted = faiss.downcast_InvertedLists(target.invlists)
    sizes = np.zeros(int(target.nlist), dtype=np.int64)
    for path in paths:
        other = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
        held = lists_of(other).invlists
        sizes += np.array([held.list_size(number) for number in range(len(sizes))])
    if isinstance(inverted, faiss.ArrayInvertedLists):
        for number, size in enumerate(sizes.tolist()):
            inverted.resize(number, size)
            inverted.resize(number, 0)
    return int(sizes.sum())


def _reserve(index: Any, num_rows: int) -> None:
    """The same for codes that lie in one piece, and for the links of a graph."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        _reserve(index.index, num_rows)
    elif isinstance(index, faiss.IndexRefine):
        _reserve(index.base_index, num_rows)
        _reserve(index.refine_index, num_rows)
    elif isinstance(index, faiss.IndexHNSW):
        _reserve(index.storage, num_rows)
        links, held = index.hnsw.neighbors, index.hnsw.neighbors.size()
        links.resize(num_rows * (hnsw_row_bytes(int(index.hnsw.nb_neighbors(0)) // 2) // 4))
        links.resize(held)
    elif isinstance(index, faiss.IndexFlatCodes):
        held = index.codes.size()
        index.codes.resize(num_rows * int(index.code_size))
        index.codes.resize(held)


def _on_gpus(dim: int) -> Any:
    """Where k-means looks for the nearest centroid: on all GPUs; None for FAISS's own way on the CPU."""
    faiss = load_faiss()
    return faiss.index_cpu_to_all_gpus(faiss.IndexFlatIP(dim)) if faiss.get_num_gpus() else None
