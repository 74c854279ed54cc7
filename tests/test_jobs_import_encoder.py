"""`viewfold encoder import`: a file of weights becomes an encoder folder that knows where it is from."""

import json
from pathlib import Path

import pytest
import timm
import torch
from typer.testing import CliRunner

from viewfold.cli_encoder import encoder_app
from viewfold.errors import InvalidInput
from viewfold.jobs.import_encoder import import_encoder
from viewfold.ssl.encoder import load_encoder


def weights_in(folder: Path) -> Path:
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def test_the_verb_writes_an_encoder_and_says_how_to_begin_with_it(tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    words = ["import", "test_resnet", "--weights", str(weights_in(tmp_path)), "--image-size", "32", "--out", str(out)]
    answer = CliRunner().invoke(encoder_app, [*words, "--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.2", "0.2"])
    assert answer.exit_code == 0, answer.output
    encoder = load_encoder(out)
    assert f"encoder {encoder.id}" in answer.output
    assert f"start={out}" in answer.output.replace("\n", "")
    assert encoder.config.preprocessing.std == (0.2, 0.2, 0.2)
    lineage = json.loads((out / "encoder.json").read_text())["lineage"]
    assert lineage["imported"] == "test_resnet"
    assert lineage["weights"]["file"] == "weights.pth"


def test_the_identity_follows_from_weights_and_settings_alone(tmp_path: Path) -> None:
    weights = weights_in(tmp_path)
    ids = []
    for name, size in (("a", 32), ("b", 32), ("c", 64)):
        import_encoder("test_resnet", str(weights), image_size=size, out=tmp_path / name)
        ids.append(load_encoder(tmp_path / name).id)
    assert ids[0] == ids[1] != ids[2]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    with pytest.raises(InvalidInput, match="is not an encoder folder"):
        import_encoder("test_resnet", "weights.pth", image_size=32, out=tmp_path / "photographs")
