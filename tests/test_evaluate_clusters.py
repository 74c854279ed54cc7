"""Scores of a clustering against scikit-learn and brute force, and k-means with its chance level and interval."""

from itertools import permutations

import numpy as np
import pytest
from sklearn import metrics

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Measure, Split, clustering, clustering_measures, clustering_scores
from viewfold.ssl.evaluate.contingency import (
    Contingency,
    adjusted,
    best_matching,
    matched_share,
    mutual_information,
    rand,
)

LABEL = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
PREDICTED = np.array([1, 1, 0, 0, 0, 0, 2, 2, 2, 1])


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name.removeprefix("clusters/"): measure for measure in measures}


def blobs(*, seed: int, spread: float, classes: int = 4, rows: int = 30) -> Split:
    """Rows around one centre a class, three rows a group."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(classes), rows)
    features = 4 * np.eye(classes, 6)[label] + spread * rng.normal(size=(len(label), 6))
    return Split.of(features, label, np.arange(len(label)) // 3)


def test_scores_have_the_tabulated_values() -> None:
    scores = clustering_scores(PREDICTED, LABEL)
    assert scores.acc == 0.8
    assert scores.nmi == pytest.approx(0.618065646292, abs=1e-12)
    assert scores.ari == pytest.approx(0.431818181818, abs=1e-12)


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(3, 3), (5, 3), (2, 4), (1, 3), (3, 1), (40, 3)])
def test_scores_equal_scikit_learn_and_the_best_of_all_matchings(num_clusters: int, num_classes: int) -> None:
    rng = np.random.default_rng(num_clusters)
    label = rng.integers(num_classes, size=40)
    predicted = np.where(rng.random(40) < 0.5, label % num_clusters, rng.integers(num_clusters, size=40)) - 7
    if num_clusters == 40:
        predicted = np.arange(40)
    scores = clustering_scores(predicted, label)
    assert scores.nmi == pytest.approx(metrics.normalized_mutual_info_score(label, predicted), abs=1e-9)
    assert scores.ari == pytest.approx(metrics.adjusted_rand_score(label, predicted), abs=1e-9)
    assert scores.ami == pytest.approx(metrics.adjusted_mutual_info_score(label, predicted), abs=1e-9)
    if num_clusters <= 5:
        table = np.zeros((5, 5))
        np.add.at(table, (predicted + 7, label), 1)
        assert scores.acc == max(table[range(5), order].sum() for order in permutations(range(5))) / 40


def test_weights_are_repetitions() -> None:
    times = np.array([2, 0, 1, 3, 1, 0, 0, 4, 1, 1])
    cells = Contingency.of(PREDICTED, LABEL)
    counts = cells.counts(times.astype(float))
    repeated = clustering_scores(np.repeat(PREDICTED, times), np.repeat(LABEL, times))
    acc = matched_share(counts, best_matching(cells, counts))
    weighted = (acc, mutual_information(cells, counts), rand(cells, counts), adjusted(cells, counts))
    assert weighted == pytest.approx(repeated)
    # A class and a cluster that no row was drawn of are no class and no cluster.
    gone = np.where(LABEL == 0, 0.0, 1.0)
    rest = clustering_scores(PREDICTED[LABEL > 0], LABEL[LABEL > 0])
    assert adjusted(cells, cells.counts(gone)) == pytest.approx(rest.ami)


def test_independent_clusters_are_at_chance_and_the_interval_says_so() -> None:
    rng = np.random.default_rng(0)
    predicted, label = rng.integers(10, size=1024), rng.integers(10, size=1024)
    found = by_name(clustering_measures(predicted, Split.of(np.zeros((1024, 1)), label)))
    # Levels of two independent uniform labelings.
    assert found["nmi"].chance == pytest.approx(0.018, abs=2e-3)
    assert found["acc"].chance == pytest.approx(0.142, abs=0.01)
    assert found["ari"].chance == pytest.approx(0, abs=2e-3)
    assert found["ami"].chance == pytest.approx(0, abs=2e-3)
    for measure in found.values():
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low < measure.chance < measure.high
        assert measure.low < measure.value < measure.high


def test_k_means_finds_classes_that_lie_apart_and_only_those() -> None:
    apart = by_name(clustering(blobs(seed=0, spread=0.2)))
    for measure in apart.values():
        assert (measure.value, measure.low, measure.high) == pytest.approx((1, 1, 1))
    assert apart["acc"].detail["clusters_found"] == 4
    assert apart["ami"].detail["num_draws"] < apart["acc"].detail["num_draws"]
    mixed = by_name(clustering(blobs(seed=0, spread=3), num_clusters=6))
    for name, measure in mixed.items():
        assert measure.chance - 0.1 < measure.value < 0.9 * apart[name].value
        assert measure.detail["clusters_found"] == 6


def test_clusters_are_of_directions_and_the_same_seed_gives_the_same() -> None:
    split = blobs(seed=1, spread=1)
    scale = np.random.default_rng(2).uniform(0.1, 10, size=(len(split.label), 1)).astype(np.float32)
    scaled = Split.of(split.features.numpy() * scale, split.label, split.group)
    assert [m.value for m in clustering(split)] == [m.value for m in clustering(scaled)]


def test_a_collapsed_encoder_gives_one_cluster() -> None:
    split = blobs(seed=0, spread=1)
    found = by_name(clustering(Split.of(np.ones((120, 3)), split.label, split.group)))
    assert found["acc"].detail["clusters_found"] == 1
    assert [found[name].value for name in ("acc", "nmi", "ari", "ami")] == pytest.approx([0.25, 0, 0, 0], abs=1e-9)
    assert found["acc"].chance == pytest.approx(0.25)


def test_rows_without_label_are_left_out() -> None:
    label = np.append(LABEL, [-1, -1])
    found = clustering_measures(np.append(PREDICTED, [5, 6]), Split.of(np.zeros((12, 1)), label))
    assert [m.value for m in found] == pytest.approx(clustering_scores(PREDICTED, LABEL))
    assert {m.n for m in found} == {10}
    with pytest.raises(InvalidInput, match="have one class"):
        clustering(Split.of(np.eye(3), [2, 2, -1]))
    with pytest.raises(InvalidInput, match=r"num_clusters must lie in 1\.\.2"):
        clustering(Split.of(np.eye(3), [0, 1, -1]), num_clusters=3)
