"""Selection of demonstrations; the golden pool is eight unit vectors on a circle."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import on_circle, pool

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.retrieval import DemoSet, FeatureSet, IndexBundle, Query, SelectConfig, build_bundle, select

DEGREES = [2, 5, 9, 14, 20, 27, 35, 44]
EAST = on_circle([0])[0]


def golden_pool(encoder_id: str = "encoder-a") -> FeatureSet:
    return pool(
        on_circle(DEGREES),
        encoder_id=encoder_id,
        key=list("01234567"),
        label=list("00010112"),
        domain=list("aabbccab"),
        group=list("00123456"),
        sha256=[f"sha-{row}" for row in range(8)],
    )


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return build_bundle(golden_pool(), tmp_path_factory.mktemp("golden") / "bundle")


def keys_by_rank(demos: DemoSet) -> list[str]:
    return [item.key for item in sorted(demos.items, key=lambda item: item.rank)]


def chosen(bundle: IndexBundle, query: Query, **config: Any) -> DemoSet:
    (demos,) = select(bundle, [query], SelectConfig(**config))
    return demos


def test_the_three_nearest_stand_in_the_prompt_with_the_nearest_last(golden: IndexBundle) -> None:
    demos = chosen(golden, Query("q", EAST), k=3)
    assert keys_by_rank(demos) == ["0", "1", "2"]
    assert [item.key for item in demos.items] == ["2", "1", "0"]
    assert [item.key for item in chosen(golden, Query("q", EAST), k=3, order="nearest_first").items] == ["0", "1", "2"]
    expected = [round(math.cos(math.radians(angle)), 6) for angle in (9, 5, 2)]
    assert [item.score for item in demos.items] == pytest.approx(expected, abs=1e-9)
    assert [(item.label, item.domain, item.rank) for item in demos.items] == [
        ("0", "b", 3),
        ("0", "a", 2),
        ("0", "a", 1),
    ]
    assert demos.warnings == []


def test_the_querys_group_is_left_out_and_counted(golden: IndexBundle) -> None:
    demos = chosen(golden, Query("q", EAST, group="0"), k=3)
    assert keys_by_rank(demos) == ["2", "3", "4"]
    assert demos.excluded == {"key": 0, "sha256": 0, "group": 2}
    assert keys_by_rank(chosen(golden, Query("q", EAST, group="0"), k=3, exclude_group=False)) == ["0", "1", "2"]


def test_the_query_itself_and_the_same_bytes_are_left_out_and_counted_once(golden: IndexBundle) -> None:
    demos = chosen(golden, Query("0", EAST, group="0", sha256="sha-2"), k=3)
    assert keys_by_rank(demos) == ["3", "4", "5"]
    assert demos.excluded == {"key": 1, "sha256": 1, "group": 1}
    assert keys_by_rank(chosen(golden, Query("0", EAST), k=2)) == ["1", "2"]


def test_identity_adaptation_makes_invariant_selection_nearest_selection_to_the_bit(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
    queries = [Query(f"q{row}", vector) for row, vector in enumerate(np.random.default_rng(1).normal(size=(40, 12)))]
    before = build_bundle(pool(vectors, encoder_id="pretrained"), tmp_path / "before")
    after = build_bundle(pool(vectors.copy(), encoder_id="adapted"), tmp_path / "after")
    nearest = select(before, queries, SelectConfig(strategy="nearest"))
    invariant = select(after, queries, SelectConfig(strategy="invariant"))
    assert [demos.items for demos in nearest] == [demos.items for demos in invariant]
    assert {demos.encoder_id for demos in invariant} == {"adapted"}


@pytest.mark.parametrize("strategy", ["random", "nearest", "invariant"])
def test_k_of_zero_asks_for_nothing_whatever_the_strategy(
    golden: IndexBundle, strategy: Literal["random", "nearest", "invariant"]
) -> None:
    demos = chosen(golden, Query("q", EAST), k=0, strategy=strategy)
    assert (demos.items, demos.warnings) == ([], [])


@pytest.mark.parametrize("strategy", ["random", "nearest"])
def test_a_query_has_the_same_demonstrations_in_any_batch(golden: IndexBundle, strategy: str) -> None:
    config = parse(SelectConfig, {"strategy": strategy, "k": 3})
    queries = [Query(f"q{angle}", on_circle([angle])[0], group=str(angle % 7)) for angle in range(40)]
    batch = select(golden, queries, config)
    assert [select(golden, [query], config)[0] for query in queries] == batch
    assert select(golden, queries[::-1], config) == batch[::-1]


def test_random_selection_draws_every_eligible_image_equally_often(golden: IndexBundle) -> None:
    """3 of 6 eligible images in 2000 draws: 1000 each, standard deviation 22."""
    queries = [Query(f"q{number}", EAST, group="0") for number in range(2000)]
    sets = select(golden, queries, SelectConfig(strategy="random", k=3))
    drawn = Counter(item.key for demos in sets for item in demos.items)
    assert sorted(drawn) == list("234567")
    assert all(abs(count - 1000) < 110 for count in drawn.values())
    assert all(len({item.key for item in demos.items}) == 3 for demos in sets)
    first = Counter(keys_by_rank(demos)[0] for demos in sets)
    assert all(abs(count - 2000 / 6) < 85 for count in first.values())


def test_random_selection_follows_seed_and_query_id_and_scores_by_cosine(golden: IndexBundle) -> None:
    demos = chosen(golden, Query("q", EAST), strategy="random", k=5)
    assert chosen(golden, Query("q", -EAST), strategy="random", k=5, seed=0).items != []
    assert keys_by_rank(chosen(golden, Query("q", -EAST), strategy="random", k=5)) == keys_by_rank(demos)
    others = [chosen(golden, Query("q", EAST), strategy="random", k=5, seed=seed) for seed in range(1, 5)]
    assert any(keys_by_rank(other) != keys_by_rank(demos) for other in others)
    for item in demos.items:
        assert item.score == pytest.approx(math.cos(math.radians(DEGREES[int(item.key)])), abs=1e-6)


@pytest.mark.parametrize("strategy", ["random", "nearest"])
def test_fewer_eligible_images_than_asked_for_are_given_with_a_warning(golden: IndexBundle, strategy: str) -> None:
    demos = chosen(golden, Query("q", EAST, group="0"), k=7, strategy=strategy)
    assert sorted(keys_by_rank(demos)) == list("234567")
    assert demos.warnings == ["asked for 7 demonstrations, got 6: 6 of 8 images are eligible"]


@pytest.mark.parametrize("strategy", ["random", "nearest"])
def test_a_pool_of_the_querys_own_group_alone_gives_no_demonstrations(strategy: str, tmp_path: Path) -> None:
    bundle = build_bundle(pool(on_circle([1, 2]), group=["g", "g"]), tmp_path / "bundle")
    demos = chosen(bundle, Query("q", EAST, group="g"), k=2, strategy=strategy)
    assert demos.items == []
    assert demos.warnings == ["asked for 2 demonstrations, got 0: 0 of 2 images are eligible"]


@settings(max_examples=60, deadline=None)
@given(
    degree=st.integers(0, 359),
    key=st.sampled_from([*"01234567", "stranger"]),
    group=st.sampled_from([None, *"0123456", "stranger"]),
    sha256=st.sampled_from([None, *(f"sha-{row}" for row in range(8))]),
    k=st.integers(0, 10),
    strategy=st.sampled_from(["random", "nearest", "invariant"]),
)
def test_no_selection_shows_the_query_its_bytes_or_its_group(
    golden: IndexBundle, degree: int, key: str, group: str | None, sha256: str | None, k: int, strategy: str
) -> None:
    query = Query(key, on_circle([degree])[0], group, sha256)
    demos = chosen(golden, query, k=k, strategy=strategy)
    shown = {item.key for item in demos.items}
    leaks = {
        row
        for row, row_group in zip("01234567", "00123456", strict=True)
        if row == key or row_group == group or f"sha-{row}" == sha256
    }
    assert not shown & leaks
    assert len(shown) == len(demos.items) == min(k, 8 - len(leaks))
    assert sum(demos.excluded.values()) == len(leaks)


def test_an_image_without_a_label_cannot_be_a_demonstration(tmp_path: Path) -> None:
    bundle = build_bundle(pool(on_circle([0, 5]), label=["a", None]), tmp_path / "bundle")
    with pytest.raises(InvalidInput, match="1 of 2 images have no label"):
        select(bundle, [Query("q", EAST)], SelectConfig())


def test_no_queries_have_no_demonstrations(golden: IndexBundle) -> None:
    assert select(golden, [], SelectConfig()) == []


def test_a_demonstration_set_is_plain_data_with_its_lineage(golden: IndexBundle) -> None:
    data = json.loads(json.dumps(chosen(golden, Query("q", EAST), k=1).to_dict()))
    reason = "choice 1 of 1 by cosine"
    assert data["items"] == [
        {"key": "0", "label": "0", "domain": "a", "score": 0.999391, "rank": 1, "reason": reason, "p_match": None}
    ]
    assert (data["encoder_id"], data["bundle_id"]) == ("encoder-a", golden.info.id)


@pytest.mark.parametrize(("given", "message"), [({"k": -1}, "k must be 0 or more"), ({"strategy": "far"}, "strategy")])
def test_a_configuration_out_of_range_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(SelectConfig, given)
