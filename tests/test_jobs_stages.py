"""What a stage is made again for: a choice among the samples of the data changes all that learns, asks or shows."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from tiny import write_images

from viewfold.config import fingerprint
from viewfold.jobs.embed import Embedder
from viewfold.jobs.recipes import find
from viewfold.jobs.run import run_recipe
from viewfold.jobs.run_folder import Run
from viewfold.jobs.stages import STAGES
from viewfold.retrieval import FeatureSet, IndexBundle
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder

CHOOSING = ["pretrain", "mine", "adapt", "cluster", "evaluate", "index"]
MINED = ["mine={}", "adapt={method: vicreg, policy: {name: affine}}"]
VALIDATED = "validation.shards=[demo:emoji]"


def marks(*overrides: str) -> dict[str, str]:
    """Of each stage, the fingerprint of what it reads of the configuration."""
    config = find("smoke", [*MINED, "cluster={}", VALIDATED, *overrides])
    return {name: fingerprint(STAGES[name].settings(config)) for name in [*CHOOSING, "embed"]}


@pytest.mark.parametrize(
    "pick", ["domains=[noto]", "without_domains=[noto]", "without_groups=[patient-7]", "labelled=true"]
)
def test_a_stage_that_chooses_among_the_samples_is_made_again_for_another_choice(pick: str) -> None:
    plain, picked = marks(), marks(f"data.{pick}")
    assert [name for name in plain if plain[name] != picked[name]] == CHOOSING
    asked = marks(f"validation.{pick}")
    assert [name for name in plain if plain[name] != asked[name]] == ["evaluate"]


def test_a_share_of_old_data_concerns_the_second_training_alone() -> None:
    shares = [
        {name: fingerprint(STAGES[name].settings(config)) for name in ("pretrain", "adapt", "evaluate", "index")}
        for share in (0.3, 0.6)
        for config in [find("smoke", [f"data.replay={{shards: ['demo:emoji'], share: {share}}}"])]
    ]
    assert [name for name in shares[0] if shares[0][name] != shares[1][name]] == ["adapt"]


def test_the_index_has_what_may_be_learned_from_and_shown_alone(tmp_path: Path) -> None:
    write_images(tmp_path / "shards", samples=24, domains=4)
    left_out = ["held_out=[style-0]", "data.without_domains=[style-1]", "data.without_groups=[thing-2]"]
    small = ["pretrain.stream.image_size=16", "encoder.preprocessing.image_size=16", "adapt=null"]
    config = find("smoke", [f"data.shards=[{tmp_path / 'shards'}]", "evaluate=null", *left_out, *small])
    run_recipe(config, tmp_path / "run", until="data")
    run = Run(config, tmp_path / "run", tmp_path, ExitStack())
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=16))).eval()
    identity = save_encoder(encoder, tmp_path / "encoder", lineage={})
    embedded = Embedder({"pretrained": tmp_path / "encoder"}, run.manifest(), "invariant")(range(24))
    features = FeatureSet(identity, "m", "invariant", embedded.records, embedded.vectors["pretrained"])
    features.save(run.folder / "embed" / "pretrained")
    (tmp_path / "index").mkdir()
    STAGES["index"].make(run, tmp_path / "index")
    records = IndexBundle.open(tmp_path / "index" / "bundle").records
    assert set(records.column("domain").to_pylist()) == {"style-2", "style-3"}
    assert set(records.column("group").to_pylist()) == {f"thing-{thing}" for thing in (0, 1, 3, 4, 5)}
