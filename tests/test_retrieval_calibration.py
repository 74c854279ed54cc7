"""From cosine to probability: the curves of scikit-learn, and what abstention makes of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pools import on_circle, pool
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from viewfold.config import parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval import (
    Calibration,
    DemoSet,
    IndexBundle,
    Query,
    SelectConfig,
    build_bundle,
    fit_calibration,
    select,
)
from viewfold.retrieval.selection.calibration import FILE, _isotonic, _logistic, calibration_of

EAST = on_circle([0])[0]


def noisy_matches(num: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 1, num).round(2)  # many equal ones
    return scores, (rng.uniform(size=num) < 1 / (1 + np.exp(-8 * (scores - 0.6)))).astype(np.float64)


def test_the_ascending_curve_is_that_of_scikit_learn() -> None:
    scores, matches = noisy_matches(500)
    knots, levels = _isotonic(scores, matches)
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores, matches)
    at = np.linspace(-0.2, 1.2, 1000)
    np.testing.assert_allclose(np.interp(at, knots, levels), expected.predict(at), atol=1e-9)


def test_the_logistic_curve_is_that_of_largest_likelihood() -> None:
    scores, matches = noisy_matches(500)
    expected = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(scores[:, None], matches)
    knots, levels = _logistic(scores, matches)
    np.testing.assert_allclose(levels, expected.predict_proba(knots[:, None])[:, 1], atol=1e-4)
    parted = _logistic(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0, 1, 1]))[1]  # no finite maximum
    assert parted[0] < 0.01 < 0.99 < parted[-1]


@pytest.fixture
def styles(tmp_path: Path) -> IndexBundle:
    """Twenty things at every second degree, each in three styles half a degree apart, labelled in pairs."""
    degrees = [2 * thing + style / 2 for thing in range(20) for style in range(3)]
    return build_bundle(
        pool(
            on_circle(degrees),
            label=[f"{thing // 2:02d}" for thing in range(20) for _ in range(3)],
            domain=["abc"[style] for _ in range(20) for style in range(3)],
            group=[f"thing-{thing}" for thing in range(20) for _ in range(3)],
        ),
        tmp_path / "bundle",
    )


def test_the_fit_takes_pairs_of_two_domains_and_of_no_group(styles: IndexBundle) -> None:
    fitted = fit_calibration(styles, k=4)
    assert fitted.num_pairs < 60 * 4  # at least two of the four nearest were of its own group
    assert 0 < fitted.base_rate < 1
    assert list(fitted.probabilities) == sorted(fitted.probabilities)
    assert fit_calibration(styles, k=4) == fitted
    assert fit_calibration(styles, k=4, max_per_domain=5).num_pairs < fitted.num_pairs
    wide = fit_calibration(styles, kind="logistic")
    assert wide.probability(np.array([1.0])) > wide.probability(np.array([0.9])) + 0.1


def test_a_pool_of_one_domain_cannot_be_calibrated(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs two"):
        fit_calibration(build_bundle(pool(on_circle([1, 2])), tmp_path / "bundle"))


def curve(**given: Any) -> dict[str, Any]:
    """Probability 0 at a right angle, 1 at none."""
    data = {"kind": "logistic", "encoder_id": "encoder-a", "num_pairs": 9, "base_rate": 0.5}
    return {**data, "scores": [0.0, 1.0], "probabilities": [0.0, 1.0], **given}


def asked(bundle: IndexBundle, *, k: int = 6, seed: int = 0, **abstain: Any) -> DemoSet:
    settings = parse(SelectConfig, {"k": k, "seed": seed, "abstain": abstain})
    (demos,) = select(bundle, [Query("q", EAST)], settings)
    return demos


def test_improbable_choices_are_dropped_and_counted(styles: IndexBundle) -> None:
    every = asked(styles, calibration=curve())
    assert [item.p_match for item in every.items] == pytest.approx([item.score for item in every.items], abs=1e-6)
    assert every.stats["p_match_mean"] == pytest.approx(every.stats["score_mean"], abs=1e-6)
    least = np.cos(np.radians(1.75))  # between the third and the fourth
    kept = asked(styles, calibration=curve(), min_p_match=least, k_min=3)
    assert [item.score for item in kept.items] == [item.score for item in every.items[-3:]]
    assert (kept.excluded["min_p_match"], kept.fallback, kept.warnings) == (3, None, [])


def test_too_few_probable_ones_give_way_to_none_or_to_some_of_each_class(styles: IndexBundle) -> None:
    least = np.cos(np.radians(1.75))
    none = asked(styles, calibration=curve(), min_p_match=least, k_min=4)
    assert (none.items, none.fallback) == ([], "zero_shot")
    assert none.warnings == [f"only 3 of 6 reach p_match {least}, k_min is 4: zero_shot"]
    drawn = asked(styles, calibration=curve(), min_p_match=least, k_min=4, fallback="stratified_random", k=20)
    assert drawn.fallback == "stratified_random"
    assert set(Counter(item.label for item in drawn.items).values()) == {2}
    other = asked(styles, calibration=curve(), min_p_match=least, k_min=4, fallback="stratified_random", k=20, seed=1)
    assert [item.key for item in other.items] != [item.key for item in drawn.items]


def test_a_fallback_deals_the_classes_that_the_filters_leave_and_says_what_it_shows(styles: IndexBundle) -> None:
    abstain: dict[str, Any] = {"calibration": curve(), "min_p_match": 1.0, "fallback": "stratified_random"}
    for seed in range(4):
        settings = parse(
            SelectConfig,
            {"k": 6, "seed": seed, "filters": {"labels": ["00", "01"]}, "abstain": {**abstain, "k_min": 6}},
        )
        (drawn,) = select(styles, [Query("q", EAST)], settings)
        assert sorted(item.label for item in drawn.items) == ["00"] * 3 + ["01"] * 3
    assert drawn.stats["fill_rate"] == 1.0
    assert drawn.stats["score_mean"] == pytest.approx(np.mean([item.score for item in drawn.items]))
    every = asked(styles, k_min=6, **abstain)
    assert every.warnings[0].startswith("quota min_per_class=1 is not met with k=6 by 4 classes")
    assert every.warnings[1].endswith("k_min is 6: stratified_random")
    none = asked(styles, calibration=curve(), min_p_match=1.0, k_min=6)
    assert none.stats == {"fill_rate": 0.0, "candidates": 60.0, "nearest": every.stats["nearest"]}


@pytest.mark.parametrize("given", [{"k_min": 3}, {"fallback": "stratified_random"}])
def test_what_takes_the_place_of_dropped_ones_is_refused_where_none_are(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="do nothing while min_p_match is 0"):
        parse(SelectConfig, {"abstain": given})


def test_a_pool_of_one_group_gives_no_pairs_to_fit_on(tmp_path: Path) -> None:
    features = pool(on_circle([1, 2, 3]), domain=list("aba"), group=["g"] * 3)
    with pytest.raises(InvalidInput, match="no image has one of another group among its 20 nearest in other domains"):
        fit_calibration(build_bundle(features, tmp_path / "bundle"))


def test_a_pool_of_one_domain_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has images of one domain or none; a calibration leaves one out"):
        fit_calibration(build_bundle(pool(on_circle([1, 2, 3])), tmp_path / "bundle"))


def test_the_file_is_read_once_until_it_changes(styles: IndexBundle) -> None:
    fitted = fit_calibration(styles)
    fitted.save(styles.folder / FILE)
    assert calibration_of(styles) is calibration_of(styles)
    logistic = fit_calibration(styles, kind="logistic")
    logistic.save(styles.folder / FILE)
    assert calibration_of(styles) == logistic != fitted
    (styles.folder / FILE).unlink()
    assert calibration_of(styles) is None


def test_a_calibration_in_the_bundles_folder_is_used_and_that_of_another_encoder_refused(styles: IndexBundle) -> None:
    with pytest.raises(InvalidInput, match=r"min_p_match=0\.5 needs a calibration"):
        asked(styles, min_p_match=0.5)
    fitted = fit_calibration(styles)
    fitted.save(styles.folder / FILE)
    assert Calibration.load(styles.folder / FILE, encoder_id="encoder-a") == fitted
    assert all(item.p_match is not None for item in asked(styles).items)
    with pytest.raises(ArtifactMismatch, match="a calibration of encoder encoder-b beside a bundle of encoder enc"):
        asked(styles, calibration=curve(encoder_id="encoder-b"))
    (styles.folder / FILE).write_text(json.dumps({"format": 0}))
    with pytest.raises(ArtifactMismatch, match="calibration of format 0"):
        asked(styles)
