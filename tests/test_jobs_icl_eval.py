"""The verb as a person runs it, in a few steps on the shipped emoji: what is written, and what is found again."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from viewfold.cli_icl import icl_eval
from viewfold.config import dump
from viewfold.errors import InvalidInput
from viewfold.jobs.icl_recipes import ICL_RECIPES, VENDORS, icl_emoji_demo
from viewfold.retrieval import FeatureSet


@pytest.mark.parametrize("name", sorted(ICL_RECIPES))
def test_every_evaluation_resolves_and_holds_vendors_out_whole(name: str) -> None:
    config = ICL_RECIPES[name]()
    assert config.name == name
    held_out = [domain for fold in config.folds for domain in fold]
    assert len(set(held_out)) == len(held_out)
    assert set(config.folds) <= set(VENDORS)
    assert config.unseen_share == 0.5
    assert set(config.adaptations) <= {"robust", "hcvp", "ce"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's evaluation in four steps a training, with one fold and an adapter beside the whole encoder."""
    data: dict[str, Any] = dump(icl_emoji_demo())
    data["folds"] = [["twemoji"]]
    data["pretrain"]["steps"] = 4
    data["encoder"]["equivariant_dim"] = 0
    data["pretrain"]["method"] = {"name": "vicreg", "expander_widths": [32, 32]}
    whole = {**data["adaptations"]["robust"], "steps": 4}
    adapter = {**whole, "train": {"what": "adapter"}, "policy": {"name": "none"}, "workers": 1}
    data |= {"name": "short", "adaptations": {"robust": whole, "adapter": adapter}, "ks": [0, 1, 3], "resamples": 100}
    path = tmp_path_factory.mktemp("settings") / "short.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.heavy
@pytest.mark.slow
def test_an_evaluation_is_made_once_and_found_again(
    settings: Path, tmp_path: Path, ray_local: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "short"
    icl_eval(str(settings), ["lmm.queries_per_fold=5"], lmm="vote", model=None, out=out)
    results = json.loads((out / "results.json").read_text())
    assert list(results["folds"]) == ["twemoji"]
    assert set(results["selectors"]) == {
        "random", "pixels", "nearest", "invariant:robust", "invariant:adapter", "oracle",
    }  # fmt: skip
    assert results["queries"] == 90  # half of the 180 things
    for name in ("base", "robust-0", "adapter-0"):
        stage = json.loads((out / "twemoji" / name / "stage.json").read_text())
        assert stage["result"]["num_samples"] == 4 * 90  # the other half, in the four other styles
    assert results["selectors"]["oracle"]["macro"]["3"]["vote"]["value"] == 1
    assert {row["selector"] for row in results["lmm"]["rows"]} == {"zero-shot", *results["selectors"]}
    assert not any(stage["reused"] for stage in results["stages"].values())
    features = FeatureSet.load(out / "twemoji" / "adapter-0-features" / "features")
    assert features.encoder_id == results["stages"]["twemoji/adapter-0"]["encoder_id"]
    assert "invariant:robust" in capsys.readouterr().out
    asked = (out / "answers.jsonl").read_bytes()
    icl_eval(str(settings), ["lmm.queries_per_fold=5"], lmm="vote", model=None, out=out)
    again = json.loads((out / "results.json").read_text())
    assert all(stage["reused"] for stage in again["stages"].values())
    assert again["selectors"] == results["selectors"]
    assert (out / "answers.jsonl").read_bytes() == asked
    (out / "results.json").unlink()
    nobody = ["lmm.queries_per_fold=5", "lmm.server.retries=0"]
    with pytest.raises(InvalidInput, match="cannot reach a server"):
        icl_eval(str(settings), nobody, lmm="http://127.0.0.1:9/v1", model="m", out=out)
    assert json.loads((out / "results.json").read_text())["selectors"] == results["selectors"]
    assert (out / "report.html").is_file()
