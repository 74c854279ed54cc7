"""The steps of selection on eight unit vectors of a circle, each with the answer worked out by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from pools import on_circle, pool

from viewfold.config import parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.retrieval import (
    SELECTORS,
    DemoSet,
    FilterConfig,
    IndexBundle,
    Query,
    SelectConfig,
    build_bundle,
    explain,
    majority,
    select,
)

DEGREES = [2, 5, 9, 14, 20, 27, 35, 44]
EAST = on_circle([0])[0]
COLUMNS: dict[str, Any] = {
    "key": list("01234567"),
    "label": list("00010112"),
    "domain": list("aabbccab"),
    "group": list("00123456"),
    "sha256": [f"sha-{row}" for row in range(8)],
    "phash": [f"{(1 << 2 * row) - 1:016x}" for row in range(8)],  # row differs from the first in 2 * row bits
}


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    """No vectors of a base encoder: its own are those."""
    return build_bundle(pool(on_circle(DEGREES), **COLUMNS), tmp_path_factory.mktemp("golden") / "bundle")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    """The base encoder sees the rows in the opposite order of angles."""
    base = pool(on_circle(DEGREES[::-1]), encoder_id="base", **COLUMNS)
    features = pool(on_circle(DEGREES), **COLUMNS)
    return build_bundle(features, tmp_path_factory.mktemp("adapted") / "bundle", base=base)


def config(**given: Any) -> SelectConfig:
    return parse(SelectConfig, {"guards": {"duplicate_cosine": None}, **given})


def asked(bundle: IndexBundle, query: Query | None = None, **given: Any) -> DemoSet:
    (demos,) = select(bundle, [query or Query("q", EAST)], config(**given))
    return demos


def by_rank(demos: DemoSet) -> str:
    return "".join(item.key for item in sorted(demos.items, key=lambda item: item.rank))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "012"),
        ({"guards": {"duplicate_cosine": 0.999, "duplicate_space": "own"}}, "123"),
        ({"quota": {"rule": "max_per_class"}}, "037"),
        ({"quota": {"rule": "min_per_class"}}, "037"),
        ({"quota": {"rule": "domain_round_robin"}}, "024"),
        ({"k": 5, "quota": {"rule": "domain_round_robin"}}, "02413"),
        ({"k": 5, "quota": {"rule": "max_per_class", "per_class": 2}}, "01357"),
        ({"k": 4, "quota": {"rule": "min_per_class"}}, "0137"),
        ({"k": 4, "diversity": {"lam": 1.0}}, "0123"),
        ({"k": 4, "diversity": {"lam": 0.9}}, "0123"),
        ({"k": 4, "diversity": {"lam": 0.7}}, "0123"),
        ({"k": 4, "diversity": {"lam": 0.5}}, "0123"),
        ({"k": 4, "diversity": {"lam": 0.3}}, "0742"),
        ({"filters": {"domains": ["b", "c"]}}, "234"),
        ({"filters": {"not_domains": ["b"]}}, "014"),
        ({"filters": {"labels": ["1", "2"]}}, "356"),
        ({"filters": {"domains": ["a", "b"], "labels": ["1"], "attrs": {"group": ["2", "5"]}}}, "36"),
    ],
)
def test_each_step_chooses_what_its_rule_says(golden: IndexBundle, given: dict[str, Any], expected: str) -> None:
    demos = asked(golden, **{"k": 3, **given})
    assert by_rank(demos) == expected
    assert [item.rank for item in demos.items] == list(range(len(expected), 0, -1))


def test_the_vote_the_precision_and_the_coverage_of_the_nearest(golden: IndexBundle) -> None:
    labels = [item.label for item in asked(golden, k=7, order="nearest_first").items]
    assert [labels.count(name) for name in "012"] == [4, 3, 0]
    assert [labels[:5].count(name) / 5 for name in "01"] == [0.8, 0.2]
    assert labels.index("1") + 1 == 4
    assert majority(asked(golden, k=7).items) == "0"


@pytest.mark.parametrize(
    ("k", "temperature", "expected"),
    [
        (4, 0.1, "0123"),  # votes 3.409 : 1.251 : 0.061, so seats 3 : 1 : 0
        (5, 0.1, "01234"),  # 4 : 1 : 0
        (6, 0.1, "012345"),  # 4 : 2 : 0, since the first class has no more
        (7, 1e6, "0123567"),  # votes 4 : 3 : 1, so seats 3 : 3 : 1
    ],
)
def test_seats_follow_the_vote_of_the_candidates(
    golden: IndexBundle, k: int, temperature: float, expected: str
) -> None:
    quota = {"rule": "proportional_to_posterior", "temperature": temperature}
    assert by_rank(asked(golden, k=k, quota=quota)) == expected


@pytest.mark.parametrize(
    ("quota", "k", "warning"),
    [
        ({"rule": "max_per_class"}, 5, "quota max_per_class=1 leaves 3 of 5 demonstrations"),
        ({"rule": "min_per_class"}, 2, "quota min_per_class=1 is not met with k=2 by 1 classes: '2'"),
        ({"rule": "min_per_class", "per_class": 3}, 6, "quota min_per_class=3 is not met with k=6 by 1 classes: '2'"),
    ],
)
def test_a_quota_that_cannot_be_met_is_said(golden: IndexBundle, quota: dict[str, Any], k: int, warning: str) -> None:
    assert asked(golden, k=k, quota=quota).warnings == [warning]


def test_a_quota_looks_further_for_a_rare_class(tmp_path: Any) -> None:
    degrees = np.linspace(1, 80, 400)
    labels = ["rare" if row == 399 else "common" for row in range(400)]
    bundle = build_bundle(pool(on_circle(degrees.tolist()), label=labels), tmp_path / "bundle")
    demos = asked(bundle, k=3, quota={"rule": "min_per_class"})
    assert by_rank(demos) == "000000010399"
    assert demos.warnings == []
    assert demos.stats["candidates"] == 400


def test_copies_are_found_in_the_space_of_the_base_encoder(adapted: IndexBundle) -> None:
    query = Query("q", EAST, base_vector=EAST)
    demos = asked(adapted, query, k=8, guards={"duplicate_cosine": 0.98})  # 2, 5 and 9 degrees there: rows 7, 6 and 5
    assert by_rank(demos) == "01234"
    assert demos.excluded == {"key": 0, "sha256": 0, "group": 0, "duplicate": 3}
    unknown = asked(adapted, k=8, guards={"duplicate_cosine": 0.98})
    assert by_rank(unknown) == "01234567"
    assert "duplicate" not in unknown.excluded
    with pytest.raises(ArtifactMismatch, match="a base vector of 3 numbers, and the bundle's have 2"):
        asked(adapted, Query("q", EAST, base_vector=np.ones(3)), guards={})


def test_images_that_look_the_same_are_left_out_by_their_hash(golden: IndexBundle) -> None:
    demos = asked(golden, Query("q", EAST, phash="0" * 16), k=3, guards={"phash_distance": 5})
    assert by_rank(demos) == "345"  # rows 0, 1 and 2 differ in 0, 2 and 4 bits
    assert demos.excluded["phash"] == 3
    off = asked(golden, Query("q", EAST, phash="0" * 16), k=3, guards={"phash_distance": None})
    assert (by_rank(off), "phash" in off.excluded) == ("012", False)


@pytest.mark.parametrize("phash", ["z" * 16, "0x0123456789abcd", "0" * 15])
def test_a_hash_that_is_none_is_refused_by_name(golden: IndexBundle, phash: str, tmp_path: Any) -> None:
    with pytest.raises(InvalidInput, match=r"query q: .* is no perceptual hash"):
        asked(golden, Query("q", EAST, phash=phash))
    bundle = build_bundle(pool(on_circle([1, 2, 3]), phash=[None, "f" * 16, phash]), tmp_path / "bundle")
    with pytest.raises(InvalidInput, match=r"0002: .* is no perceptual hash"):
        asked(bundle, Query("q", EAST, phash="0" * 16))


def test_a_vector_that_cannot_be_searched_is_refused_by_the_id_of_its_query(golden: IndexBundle) -> None:
    good = Query("good", EAST)
    with pytest.raises(ArtifactMismatch, match="query long: its vector has 3 numbers and the index holds vectors of 2"):
        select(golden, [good, Query("long", np.ones(3))], config())
    with pytest.raises(InvalidInput, match="query lost: its vector is all zeros"):
        select(golden, [good, Query("lost", np.zeros(2))], config())


def test_an_image_that_several_exclude_counts_for_the_first(golden: IndexBundle) -> None:
    query = Query("0", EAST, group="0", sha256="sha-1", phash="0" * 16)
    demos = asked(golden, query, k=8, filters={"not_domains": ["c"]})
    assert demos.excluded == {"domain": 2, "key": 1, "sha256": 1, "group": 0, "phash": 1}
    assert by_rank(demos) == "367"
    assert demos.warnings == ["asked for 8 demonstrations, got 3: 3 of 8 images are eligible"]


def test_filters_name_what_they_do_not_know(golden: IndexBundle) -> None:
    with pytest.raises(InvalidInput, match=r"unknown domain of the pool 'z'.*known: a, b, c"):
        asked(golden, filters={"domains": ["z"]})
    with pytest.raises(InvalidInput, match="unknown column of the records 'licence'"):
        asked(golden, filters={"attrs": {"licence": ["cc0"]}})
    assert asked(golden, k=1, filters={"not_domains": ["z"]}).warnings == [
        "no image of the pool is of domain 'z', which was to be left out"
    ]


@pytest.mark.parametrize("name", ["domains", "not_domains", "labels", "attrs"])
def test_a_text_in_place_of_several_is_refused(name: str) -> None:
    given: Any = {"domain": "a"} if name == "attrs" else "a"
    with pytest.raises(ValueError, match=r"must be a sequence of values, got the text 'a'; write \('a',\)"):
        FilterConfig(**{name: given})


@pytest.mark.parametrize("strategy", sorted(set(SELECTORS) - {"oracle"}))
def test_a_filter_that_leaves_nothing_gives_nothing(golden: IndexBundle, strategy: str) -> None:
    demos = asked(golden, strategy=strategy, filters={"domains": ["a"], "labels": ["2"]})
    assert demos.items == []
    assert demos.warnings == ["asked for 7 demonstrations, got 0: 0 of 8 images are eligible"]


def test_the_oracle_takes_the_nearest_of_the_querys_class(golden: IndexBundle) -> None:
    queries = [Query(f"q{label}", EAST, group="0") for label in "0123"]
    found = select(golden, queries, config(strategy="oracle", k=3), labels=list("0123"))
    assert [by_rank(demos) for demos in found] == ["24", "356", "7", ""]
    with pytest.raises(InvalidInput, match="it needs them"):
        select(golden, queries, config(strategy="oracle"))
    with pytest.raises(InvalidInput, match="the queries' labels are for 'oracle'"):
        select(golden, queries, config(), labels=list("0123"))


def test_the_orders_of_the_prompt(golden: IndexBundle) -> None:
    keys = {name: [item.key for item in asked(golden, k=6, order=name).items] for name in ("nearest_first", "shuffled")}
    assert keys["nearest_first"] == list("012345")
    assert sorted(keys["shuffled"]) == list("012345") != keys["shuffled"]
    again = [[item.key for item in asked(golden, k=6, order="shuffled", seed=seed).items] for seed in (0, 1)]
    assert again[0] == keys["shuffled"] != again[1]
    interleaved = [item.key for item in asked(golden, k=6, order="class_interleaved").items]
    assert interleaved == list("425130")  # from the end: class 0, 1, 0, 1, then what is left of 0
    assert [COLUMNS["label"][int(key)] for key in interleaved[::-1]] == list("010100")


def test_every_choice_and_every_refusal_can_be_explained(golden: IndexBundle) -> None:
    query = Query("7", EAST, group="0")
    given = {"k": 2, "filters": {"not_domains": ["c"]}, "quota": {"rule": "max_per_class"}}
    told = {key: (stage, reason) for key, stage, reason in explain(golden, query, config(**given))}
    assert {key: stage for key, (stage, _) in told.items()} == {
        "0": "group",
        "1": "group",
        "2": "chosen",
        "3": "chosen",
        "4": "filter",
        "5": "filter",
        "6": "rank",
        "7": "key",
    }
    assert told["2"][1] == "choice 1 of 2 by cosine under max_per_class"
    stages = {key: stage for key, stage, _ in explain(golden, Query("q", EAST), config(**(given | {"k": 3})))}
    assert [stages[key] for key in "012367"] == ["chosen", "quota", "quota", "chosen", "rank", "chosen"]
    diverse = {key: stage for key, stage, _ in explain(golden, Query("q", EAST), config(k=4, diversity={"lam": 0.3}))}
    assert [diverse[key] for key in "01234567"] == [
        *("chosen", "diversity", "chosen", "diversity", "chosen", "rank", "rank", "chosen")
    ]


def test_figures_of_a_set(golden: IndexBundle) -> None:
    stats = asked(golden, k=4).stats
    cosines = np.cos(np.radians(DEGREES[:4]))
    assert stats == pytest.approx(
        {
            "fill_rate": 1.0,
            "candidates": 8.0,
            "nearest": cosines[0],
            "score_mean": cosines.mean(),
            "score_min": cosines[3],
            "label_entropy": -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)),
            "domains": 2.0,
        },
        abs=1e-6,
    )


def test_all_steps_together_answer_a_query_alone_as_in_a_batch(tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    vectors, num = rng.normal(size=(3000, 16)).astype(np.float32), 3000
    columns: dict[str, Any] = {
        "label": [f"class-{code}" for code in rng.integers(0, 9, num)],
        "domain": [f"domain-{code}" for code in rng.integers(0, 5, num)],
        "group": [f"group-{code}" for code in rng.integers(0, 500, num)],
        "phash": [f"{code:016x}" for code in rng.integers(0, 2**63, num)],
    }
    bundle = build_bundle(
        pool(vectors, **columns), tmp_path / "bundle", base=pool(vectors, encoder_id="base", **columns)
    )
    queries = [
        Query(f"{row:04d}", vectors[row], columns["group"][row], None, columns["phash"][row], vectors[row])
        for row in range(40)
    ]
    for given in (
        {},
        {"quota": {"rule": "min_per_class"}, "k": 9, "diversity": {"lam": 0.6}},
        {"quota": {"rule": "proportional_to_posterior"}, "filters": {"not_domains": ["domain-1"]}},
        {"quota": {"rule": "domain_round_robin"}, "order": "shuffled"},
        {"strategy": "random", "quota": {"rule": "max_per_class"}},
    ):
        settings = parse(SelectConfig, given)
        batch = select(bundle, queries, settings)
        assert [select(bundle, [query], settings)[0] for query in queries[:12]] == batch[:12]
        for query, demos in zip(queries, batch, strict=True):
            shown = {int(item.key) for item in demos.items}
            assert len(shown) == settings.k
            assert not shown & {row for row in range(num) if columns["group"][row] == query.group}
    assert dataclasses.replace(batch[0], items=[]).to_dict()["fallback"] is None
