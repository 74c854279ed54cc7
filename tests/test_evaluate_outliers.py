"""AUROC and FPR95 against scikit-learn, and the two scores where something is outside and where nothing is."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Measure, Split, detection
from viewfold.ssl.evaluate.outliers import Ranking, kth_distance


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name.removeprefix("detection/"): measure for measure in measures}


def normal(rows: int, *, seed: int, centre: float = 0.0, dim: int = 6) -> torch.Tensor:
    rows_by_dim = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    rows_by_dim[:, 0] += centre
    return rows_by_dim


def alone(features: torch.Tensor, first_group: int) -> Split:
    label = torch.full((len(features),), -1)
    return Split.of(features, label, torch.arange(len(features)) + first_group)


@pytest.mark.parametrize("decimals", [6, 1, 0])  # few decimals: many ties
def test_both_numbers_equal_scikit_learn_with_weights(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    positive = rng.random(300) < 0.4
    scores = np.round(rng.normal(size=300) + positive, decimals)
    weights = rng.integers(4, size=300).astype(float)
    ranking = Ranking.of(scores, positive)
    assert ranking.auroc(weights) == pytest.approx(metrics.roc_auc_score(positive, scores, sample_weight=weights))
    fpr, tpr, _ = metrics.roc_curve(positive, scores, sample_weight=weights, drop_intermediate=False)
    assert ranking.fpr95(weights) == pytest.approx(fpr[tpr >= 0.95 - 1e-9][0])


def test_exactly_95_percent_is_enough() -> None:
    # Twenty positives above one another; the negative beats the last of them only.
    ranking = Ranking.of(np.append(np.arange(20.0), 0.5), np.arange(21) < 20)
    assert ranking.fpr95(np.ones(21)) == 0
    assert ranking.auroc(np.ones(21)) == 0.95
    same = Ranking.of(np.zeros(21), np.arange(21) < 20)
    assert (same.auroc(np.ones(21)), same.fpr95(np.ones(21))) == (0.5, 1)


def test_distance_to_the_kth_row_equals_brute_force() -> None:
    train, queries = normal(50, seed=0).double().numpy(), normal(30, seed=1).double().numpy()
    cosine = queries @ train.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(train, axis=1)
    expected = np.sort(1 - cosine, axis=1)[:, 3]
    found = kth_distance(torch.from_numpy(train).float(), torch.from_numpy(queries).float(), k=4)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_directions_never_seen_are_far_and_short_features_have_small_norms() -> None:
    train, inside = normal(300, seed=0, centre=8), alone(normal(100, seed=1, centre=8), 0)
    turned = by_name(detection(train, inside, alone(normal(80, seed=2, centre=-8), 1000)))
    assert (turned["knn_auroc"].value, turned["knn_fpr95"].value) == (1, 0)
    assert turned["norm_auroc"].value == pytest.approx(0.5, abs=0.1)
    short = by_name(detection(train, inside, alone(0.1 * normal(80, seed=2, centre=8), 1000)))
    assert (short["norm_auroc"].value, short["norm_fpr95"].value) == (1, 0)
    assert short["knn_auroc"].value == pytest.approx(0.5, abs=0.1)
    assert [(m.chance, m.n) for m in turned.values()] == [(0.5, 180), (0.95, 180)] * 2
    assert turned["knn_auroc"].detail["k"] == 5


def test_the_same_distribution_is_at_chance_and_the_interval_holds_it() -> None:
    found = by_name(detection(normal(300, seed=0), alone(normal(200, seed=1), 0), alone(normal(200, seed=2), 1000)))
    for measure in found.values():
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low < measure.chance < measure.high


def test_a_side_of_a_single_group_has_no_interval() -> None:
    outside = normal(20, seed=2, centre=3)
    one_patient = Split.of(outside, torch.full((20,), -1), torch.full((20,), 5000))
    found = detection(normal(40, seed=0), alone(normal(3, seed=1), 0), one_patient, k=1)
    assert [(m.low, m.high) for m in found] == [(None, None)] * 4
    # With two groups on each side some draws miss a side: it is kept whole, and every end is a number.
    two = Split.of(outside, torch.full((20,), -1), torch.arange(20) // 10 + 5000)
    ends = [end for m in detection(normal(40, seed=0), alone(normal(2, seed=1), 0), two) for end in (m.low, m.high)]
    assert np.isfinite(np.array(ends, dtype=float)).all()


def test_what_cannot_be_compared_is_refused() -> None:
    some, none = alone(normal(3, seed=0), 0), alone(normal(0, seed=0), 0)
    with pytest.raises(InvalidInput, match="3 images inside and 0 outside"):
        detection(normal(5, seed=0), some, none)
    with pytest.raises(InvalidInput, match=r"k must lie in 1\.\.5, the training images, got 6"):
        detection(normal(5, seed=0), some, some, k=6)
