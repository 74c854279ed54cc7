"""The suite `retrieval` measures what it says, at sizes that take seconds."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import left_out, python_with
from benchmarks.retrieval import (
    PEER,
    Scale,
    autofaiss_build,
    build_rows,
    facts,
    queries_of,
    selection_rows,
    write_features,
)
from viewfold.retrieval import FeatureSet

TINY = Scale(rows=600, dim=16, centres=60, batch=8, factories=("HNSW8",), build_rows=1200, build_factory="IVF16,Flat")


def test_queries_lie_near_images_of_their_own_group(tmp_path: Path) -> None:
    write_features(tmp_path / "features", TINY.rows, TINY, encoder_id="a")
    features = FeatureSet.load(tmp_path / "features")
    vectors = features.vectors / np.linalg.norm(features.vectors, axis=1, keepdims=True)
    for query in queries_of(TINY):
        cosines = vectors @ query.vector / np.linalg.norm(query.vector)
        assert np.median(cosines[int(query.id) % TINY.centres :: TINY.centres]) > 0.4 > np.median(cosines) + 0.2
        assert query.group in features.column("group")


@pytest.mark.slow
def test_the_suite_gives_its_names_and_says_what_it_left_out() -> None:
    made = [*selection_rows("HNSW8", TINY, 2), *build_rows(TINY, 1, None)]
    assert [row["name"] for row in made] == [
        "selection_added_ms_per_query",
        "selection_overhead",
        "build_peak_rss_over_cap",
    ]
    assert all(np.isfinite(row["value"]) for row in made)
    assert made[0]["recall_at_10"] >= 0.95
    assert left_out("build_vs_autofaiss", PEER) in facts(made)["notes"]


@pytest.mark.slow
@pytest.mark.skipif(python_with(PEER) is None, reason=left_out(PEER, PEER))
def test_autofaiss_builds_the_same_factory(tmp_path: Path) -> None:
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "vectors.npy", np.random.default_rng(0).normal(size=(1200, 16)).astype(np.float32))
    assert autofaiss_build(str(python_with(PEER)), tmp_path / "npy", tmp_path / "out", TINY) > 0
