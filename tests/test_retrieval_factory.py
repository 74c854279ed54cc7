"""Which index is chosen, and how much memory it is said to take, against FAISS's own."""

import re

import pytest

from viewfold.errors import InvalidInput
from viewfold.retrieval import choose_factory, parse_bytes, show_bytes
from viewfold.retrieval.index.build_memory import plan_memory
from viewfold.retrieval.index.factory import index_size, num_lists
from viewfold.retrieval.index.faiss_build import index_bytes, new_index
from viewfold.retrieval.index.faiss_index import num_centroids

GIB = 1 << 30


@pytest.mark.parametrize(
    ("num_rows", "gib", "recall", "kind"),
    [
        (1_000, 1, 0.95, "Flat"),
        (50_000, 1, 0.95, "Flat"),
        (3_000_000, 4, 1.0, "Flat"),
        (150_000, 1, 0.95, "HNSW32"),
        (1_000_000, 1.2, 0.95, "IVF2048,Flat"),
        (1_000_000, 0.8, 0.95, "IVF2048,PQ128,Refine(SQfp16)"),
        (1_000_000, 0.4, 0.95, "IVF2048,PQ128,Refine(SQ8)"),
        (1_000_000, 0.1, 0.95, "IVF2048,PQ64"),
        (1_000_000, 0.04, 0.95, "IVF2048,PQ16"),
    ],
)
def test_the_first_index_of_the_ladder_that_fits_is_chosen(num_rows: int, gib: float, recall: float, kind: str) -> None:
    assert choose_factory(num_rows, 256, index_bytes=gib * GIB, recall_target=recall) == kind
    assert index_size(kind, num_rows, 256) <= gib * GIB


def test_what_does_not_fit_at_all_is_refused_with_the_sizes() -> None:
    with pytest.raises(InvalidInput, match=r"1000000 vectors of 256 numbers take 25 MiB as IVF2048,PQ8, .* 10 MiB"):
        choose_factory(1_000_000, 256, index_bytes=10 << 20, recall_target=0.95)
    with pytest.raises(InvalidInput, match="or lower the recall target"):
        choose_factory(1_000_000, 256, index_bytes=10 << 20, recall_target=1)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF64,Flat", "IVF64,PQ16", "IVF64,PQ16,Refine(SQ8)"])
def test_the_size_in_advance_is_that_of_the_index_itself(factory: str) -> None:
    assert index_size(factory, 9_000, 64) == index_bytes(new_index(factory, 64), 9_000)


def test_lists_grow_with_the_square_root_and_keep_enough_vectors_to_be_trained() -> None:
    assert [num_lists(n) for n in (10, 1_000, 100_000, 1_000_000, 100_000_000)] == [1, 8, 1024, 2048, 32768]
    assert all(n // num_lists(n) >= 39 for n in range(40, 5_000, 7))


def test_a_smaller_cap_means_a_smaller_sample_and_smaller_blocks_down_to_what_training_needs() -> None:
    facts = {"index_bytes": 80 << 20, "centroids": 4096, "record_bytes": 0, "process": 100 << 20}
    free, tight = (plan_memory(1_000_000, 256, cap=cap, **facts) for cap in (None, 900 << 20))
    assert free.sample_rows == 64 * 4096
    assert 39 * 4096 <= tight.sample_rows < free.sample_rows
    assert tight.block_rows < free.block_rows
    assert tight.peak < free.peak
    no_codebook = plan_memory(1_000_000, 256, cap=None, **facts | {"centroids": 0})
    untrained = plan_memory(
        1_000_000, 256, cap=None, index_bytes=80 << 20, centroids=None, record_bytes=0, process=100 << 20
    )
    assert (no_codebook.sample_rows, untrained.sample_rows) == (65536, 0)
    assert num_centroids(new_index("HNSW8_PQ8", 64)) == 256
    with pytest.raises(InvalidInput, match=r"memory cap 900 MiB: F needs .* GiB, which is 100 MiB for the process"):
        plan_memory(1_000_000, 256, cap=900 << 20, **facts | {"index_bytes": GIB}).require(900 << 20, "F")


@pytest.mark.parametrize(
    ("text", "count"), [("2GiB", 2 * GIB), ("500 MB", 500_000_000), ("1.5kb", 1500), ("77", 77), ("3gib", 3 * GIB)]
)
def test_sizes_are_read_with_their_units(text: str, count: int) -> None:
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "2 GiBs", "-1", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(f"memory {text!r}: write a number with")):
        parse_bytes(text)


def test_sizes_are_shown_in_words() -> None:
    assert (show_bytes(3 * GIB / 2), show_bytes(5 << 20), show_bytes(1)) == ("1.50 GiB", "5 MiB", "1 MiB")
