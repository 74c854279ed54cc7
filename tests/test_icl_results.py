"""From feature sets to numbers, answers and a page: an evaluation without its trainings."""

import json
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import write_images

from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.jobs.data import source
from viewfold.jobs.icl_config import LOG, IclConfig
from viewfold.jobs.icl_data import check_evaluation, learned_from, unseen_groups
from viewfold.jobs.icl_encoders import FoldFeatures, with_kept_features
from viewfold.jobs.icl_eval import icl_eval
from viewfold.jobs.icl_gallery import gallery
from viewfold.jobs.icl_lmm import lmm_results
from viewfold.jobs.icl_report import headline_k, summary, write_report
from viewfold.jobs.icl_results import Outcomes, icl_results
from viewfold.jobs.icl_selectors import FoldChoices, fold_choices
from viewfold.keyed import generator
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.retrieval import FeatureSet, record_table
from viewfold.retrieval.icl import expected_calibration_error
from viewfold.retrieval.lmm import VoteLMM

ADAPTATION: dict[str, Any] = {"method": {"name": "cci"}, "stream": {"batch_size": 12, "classes_per_batch": 3}}
SETTINGS: dict[str, Any] = {
    "name": "tiny",
    "data": {"shards": ["images"]},
    "folds": [["style-0"], ["style-1"]],
    "start": "encoders/some",
    "adaptations": {"robust": ADAPTATION},
    "ks": [0, 1, 3],
    "seeds": [0, 1],
    "random_seeds": [0, 1, 2],
    "resamples": 200,
    "gallery": 4,
    "lmm": {"server": {"url": "vote"}, "orders": ["nearest_last", "nearest_first"], "queries_per_fold": 0},
}


def config(**changes: Any) -> IclConfig:
    return parse(IclConfig, {**SETTINGS, **changes})


class Evaluation:
    """Pictures of three classes in three styles, and encoders that tell the class apart more or less well."""

    def __init__(self, folder: Path) -> None:
        shards = write_images(folder / "images", samples=72, labels=3, domains=3)
        self.shards = [str(shard) for shard in shards]
        self.manifest = folder / "data" / "manifest.json"
        (folder / "data").mkdir()
        index_shards(self.shards, folder / "data")
        manifest = ShardManifest.load(self.manifest)
        label = [manifest.labels[n] for n in manifest.label]
        columns = {
            "key": [manifest.image_key(row, 0) for row in range(len(manifest))],
            "label": ["rare" if row == 0 else name for row, name in enumerate(label)],
            "domain": [manifest.domains[n] for n in manifest.domain],
            "group": [manifest.groups[n] for n in manifest.group],
            **{name: [None] * len(manifest) for name in ("sha256", "phash", "shard", "offset", "size")},
        }
        self.columns = columns
        truth = np.eye(3)[manifest.label]
        for name, share in {"base": 0.5, "pixels": 0.1, "robust-0": 1.5, "robust-1": 1.5}.items():
            noise = generator("features", name).normal(size=(len(manifest), 3))
            vectors = (share * truth + 0.4 * noise).astype(np.float32)
            FeatureSet(name, manifest.hash, "invariant", record_table(columns), vectors).save(folder / name)
        self.folds = {
            style: FoldFeatures(
                (style,),
                None,
                folder / "base",
                folder / "pixels",
                {"robust": {0: folder / "robust-0", 1: folder / "robust-1"}},
            )
            for style in ("style-0", "style-1")
        }

    def choices(self, settings: IclConfig) -> dict[str, FoldChoices]:
        return {fold: fold_choices(settings, features) for fold, features in self.folds.items()}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return Evaluation(tmp_path_factory.mktemp("icl"))


@pytest.fixture(scope="module")
def folds(evaluation: Evaluation) -> dict[str, FoldChoices]:
    return evaluation.choices(config())


@pytest.fixture(scope="module")
def outcomes(folds: dict[str, FoldChoices]) -> Outcomes:
    return Outcomes(config(), folds)


@pytest.fixture(scope="module")
def results(outcomes: Outcomes) -> dict[str, Any]:
    return icl_results(outcomes)


def value(results: dict[str, Any], selector: str, measure: str, *, k: int = 3, view: str = "macro") -> float:
    return float(results["selectors"][selector][view][str(k)][measure]["value"])


def test_random_and_oracle_bracket_every_selector(results: dict[str, Any]) -> None:
    names = list(results["selectors"])
    assert names == ["random", "pixels", "nearest", "invariant:robust", "oracle"]
    precision = [value(results, name, "precision") for name in ("random", "nearest", "invariant:robust", "oracle")]
    assert precision == sorted(precision)
    assert value(results, "oracle", "vote") == 1
    assert value(results, "random", "precision") == pytest.approx(value(results, "random", "chance"), abs=0.06)
    assert value(results, "nearest", "lift") == pytest.approx(precision[1] - precision[0])


def test_what_is_chosen_never_is_of_the_queries_domain_or_group(
    evaluation: Evaluation, folds: dict[str, FoldChoices]
) -> None:
    columns = evaluation.columns
    known = dict(zip(columns["key"], zip(columns["domain"], columns["group"], strict=True), strict=True))
    for fold, one in folds.items():
        for by_seed in one.selectors.values():
            for chosen in by_seed.values():
                for query, rows in zip(one.asked.ids, chosen.choices.rows, strict=True):
                    shown = [known[one.keys[row]] for row in rows if row >= 0]
                    assert fold not in {domain for domain, _ in shown}
                    assert known[query][1] not in {group for _, group in shown}


def test_a_query_whose_class_no_one_can_show_is_counted_apart(results: dict[str, Any]) -> None:
    assert results["folds"]["style-0"]["absent"] == {"queries": 1, "labels": ["rare"]}
    assert results["folds"]["style-1"]["absent"] == {"queries": 0, "labels": []}
    assert [results["folds"][fold]["queries"] for fold in ("style-0", "style-1")] == [23, 24]


def test_the_mean_over_folds_is_that_of_the_folds_and_pairs_are_differences(results: dict[str, Any]) -> None:
    for selector in results["selectors"]:
        folds = [value(results, selector, "vote", view=fold) for fold in results["folds"]]
        assert value(results, selector, "vote") == pytest.approx(np.mean(folds))
        seeds = results["selectors"][selector]["seeds"]["3"]["vote"]
        assert value(results, selector, "vote") == pytest.approx(np.mean(seeds))
    (pair,) = [
        one for one in results["differences"]
        if (one["selector"], one["against"], one["k"], one["measure"]) == ("invariant:robust", "nearest", 3, "vote")
    ]  # fmt: skip
    expected = value(results, "invariant:robust", "vote") - value(results, "nearest", "vote")
    assert pair["macro"]["value"] == pytest.approx(expected)
    assert pair["macro"]["p"] < 0.05
    assert pair["macro"]["low"] > 0


def test_the_voting_model_is_as_right_as_the_vote(
    evaluation: Evaluation, folds: dict[str, FoldChoices], outcomes: Outcomes, tmp_path: Path
) -> None:
    told = lmm_results(config(), folds, evaluation.manifest, tmp_path, VoteLMM())
    for row in told["rows"]:
        if row["selector"] == "zero-shot":
            assert (row["macro"]["accuracy"]["value"], row["macro"]["parse_fail_rate"]) == (0, 1)
        elif row["order"] == "nearest_last":
            direct = outcomes.by_seed[row["selector"], row["k"]][0]["copied_vote"]
            for fold in folds:
                assert row[fold]["accuracy"]["value"] == pytest.approx(direct[outcomes.fold == fold].mean())
    asked = (tmp_path / LOG).read_bytes()
    assert lmm_results(config(), folds, evaluation.manifest, tmp_path, VoteLMM()) == told
    assert (tmp_path / LOG).read_bytes() == asked  # nothing was asked again
    assert len(asked.splitlines()) == 47 * (1 + 5 * (1 + 2))  # not the one whose class no one can show
    assert told["queries"] == 47


def test_the_same_name_on_another_server_is_another_model(
    evaluation: Evaluation, folds: dict[str, FoldChoices], tmp_path: Path
) -> None:
    for url in ("http://one/v1", "http://two/v1"):
        lmm = {"server": {"url": url, "model": "m"}, "queries_per_fold": 2}
        lmm_results(config(lmm=lmm, ks=[0, 1]), folds, evaluation.manifest, tmp_path, VoteLMM())
    servers = [json.loads(line)["server"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert servers == ["http://one/v1"] * 24 + ["http://two/v1"] * 24


class Page(HTMLParser):
    """What a page would load, and its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]


@pytest.mark.slow
def test_the_page_stands_alone_and_shows_hits_and_misses(
    evaluation: Evaluation, folds: dict[str, FoldChoices], results: dict[str, Any], tmp_path: Path
) -> None:
    lmm = lmm_results(config(), folds, evaluation.manifest, tmp_path, VoteLMM())
    whole = {**json.loads(json.dumps(results)), "lmm": lmm, "manifest_hash": "m", "stages": {}}
    shown = gallery(config(), folds, evaluation.manifest, k=headline_k(whole))
    assert set(shown) == {"style-0", "style-1"}
    for kinds in shown.values():
        assert sum(kind["queries"] for kind in kinds) == 24
    page = Page()
    page.feed(write_report(whole, shown, tmp_path).read_text(encoding="utf-8"))
    assert [load for load in page.loads if not load.startswith(("data:", "#"))] == []
    pictures = sum(len(kind["shown"]) for kinds in shown.values() for kind in kinds)
    assert page.tags.count("img") == pictures * (1 + 2 * 3)
    assert page.tags.count("svg") == 2
    assert "invariant:robust" in summary(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": []}, "at least one fold"),
        ({"start": ""}, "base encoder is either"),
        ({"random_seeds": [0, 1]}, "3 or more"),
        ({"ks": [0]}, "above 0"),
        ({"ks": [3, 3]}, "different numbers"),
        ({"adaptations": {"a/b": ADAPTATION}}, "a name takes letters"),
        ({"adaptations": {"sie": {"method": {"name": "vicreg"}}}}, "without labels"),
        ({"vote_tau": 0}, "vote_tau must be above 0"),
        ({"unseen_share": 1}, "unseen_share must lie in 0..1"),
        ({"folds": [["a b"], ["a_b"]]}, "two would be called 'a_b'"),
        ({"folds": [["a"], ["b", "a"]]}, "a stands there twice"),
        *[({"folds": [[name]]}, "name of other results") for name in ("macro", "seeds", "data", "..", "x.part")],
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        config(**changes)


def test_a_fold_without_queries_is_refused(evaluation: Evaluation) -> None:
    nobody = replace(evaluation.folds["style-0"], domains=("style-9",))
    with pytest.raises(InvalidInput, match="0 labelled images of style-9 to ask with"):
        fold_choices(config(), nobody)


def test_only_groups_that_nothing_learns_from_ask_and_their_other_images_can_be_chosen(evaluation: Evaluation) -> None:
    settings, manifest = config(unseen_share=0.5), ShardManifest.load(evaluation.manifest)
    unseen = unseen_groups(settings, manifest)
    assert unseen is not None
    assert len(unseen) == 12  # of 24 things
    learned = source(evaluation.manifest, learned_from(settings, ("style-0",), unseen, labelled=True))
    assert {manifest.groups[number] for number in learned.group} == set(manifest.groups) - unseen
    assert {manifest.domains[number] for number in learned.domain} == {"style-1", "style-2"}
    one = fold_choices(settings, replace(evaluation.folds["style-0"], unseen=unseen))
    assert sorted(one.asked.groups) == sorted(unseen)
    group = dict(zip(evaluation.columns["key"], evaluation.columns["group"], strict=True))
    assert {group[key] for key in one.keys} == set(manifest.groups)


def test_what_the_data_leave_out_neither_asks_nor_is_chosen(evaluation: Evaluation) -> None:
    data = {"shards": ["images"], "without_domains": ["style-2"], "without_groups": ["thing-3"]}
    one = fold_choices(config(data=data), evaluation.folds["style-0"])
    known = dict(
        zip(
            evaluation.columns["key"],
            zip(evaluation.columns["domain"], evaluation.columns["group"], strict=True),
            strict=True,
        )
    )
    assert {known[key][0] for key in one.keys} == {"style-1"}
    assert "thing-3" not in {known[key][1] for key in [*one.keys, *one.asked.ids]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": [["style-0"], ["style-9"]]}, "unknown domain of folds 'style-9'"),
        ({"data": {"shards": ["images"], "without_domains": ["style-1"]}}, "data leaves domain style-1 out"),
        ({"data": {"shards": ["images"], "domains": ["style-0", "style-2"]}}, "data leaves domain style-1 out"),
        ({"data": {"shards": ["images"], "without_groups": ["nothing"]}}, "no sample is of group 'nothing'"),
        ({"folds": [["style-0", "style-1", "style-2"]]}, "0 of other domains to choose from"),
        ({"adaptations": {"robust": {**ADAPTATION, "select": {"domains": ["style-1"]}}}}, "held out of this run"),
        ({"adaptations": {"robust": {**ADAPTATION, "stream": {"batch_size": 64}}}}, "more than the 48 samples"),
        ({"lmm": {"server": {"url": "vote"}, "prompt": {"labels": {"class-9": "x"}}}}, "class in labels 'class-9'"),
    ],
)
def test_what_would_stop_a_later_fold_is_found_before_any_training(
    evaluation: Evaluation, changes: dict[str, Any], message: str
) -> None:
    check_evaluation(config(), evaluation.manifest, None)
    with pytest.raises(InvalidInput, match=message):
        check_evaluation(config(**changes), evaluation.manifest, None)


def test_where_each_class_is_one_group_nobody_can_be_shown_theirs(tmp_path: Path) -> None:
    shards = write_images(tmp_path / "images", samples=6, labels=3, domains=2)
    index_shards([str(shard) for shard in shards], tmp_path)
    small = {**ADAPTATION, "stream": {"batch_size": 3, "classes_per_batch": 3}, "workers": 1}
    settings = config(adaptations={"robust": small})
    check_evaluation(replace(settings, exclude_group=False), tmp_path, None)
    with pytest.raises(InvalidInput, match="no query finds an image of its class"):
        check_evaluation(settings, tmp_path, None)


def test_a_refused_evaluation_leaves_no_settings_behind(evaluation: Evaluation, tmp_path: Path) -> None:
    secret = config(lmm={"server": {"url": "http://me:secret@host/v1", "model": "m"}})
    with pytest.raises(InvalidInput, match="holds a password"):
        icl_eval(secret, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    nowhere = config(folds=[["style-9"]], data={"shards": evaluation.shards})
    for _ in range(2):  # what is there of the first call does not bar the second one
        with pytest.raises(InvalidInput, match="unknown domain"):
            icl_eval(nowhere, tmp_path / "out")
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_the_calibration_error_is_that_of_the_queries_that_are_measured(
    folds: dict[str, FoldChoices], results: dict[str, Any]
) -> None:
    errors = []
    for one in folds.values():
        choices = one.selectors["nearest"][0].choices.first(3)
        assert choices.p_match is not None
        shown = one.asked.chance > 0
        matches = choices.matches(one.pool, one.asked.labels)
        errors.append(expected_calibration_error(choices.p_match[shown].ravel(), matches[shown].ravel()))
    assert results["selectors"]["nearest"]["calibration"]["3"]["ece"] == pytest.approx(np.mean(errors), abs=1e-12)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [({}, True), ({"ledger": "ledger"}, False), ({"max_bad_share": 0.1}, False)],
)
def test_features_are_kept_for_a_training_that_reads_them(
    evaluation: Evaluation, tmp_path: Path, changes: dict[str, Any], kept: bool
) -> None:
    adapter = {**ADAPTATION, "train": {"what": "adapter"}, "stream": {**ADAPTATION["stream"], **changes}}
    settings = config(adaptations={"adapter": adapter})
    training = with_kept_features(settings.adaptations["adapter"], settings.data, evaluation.manifest, tmp_path)
    assert training.features == (str(tmp_path) if kept else "")
