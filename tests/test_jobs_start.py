"""A run that begins with an encoder made before: copied whole, kept when a name comes to stand for another."""

from pathlib import Path

import pytest
import torch

from viewfold.errors import InvalidInput
from viewfold.jobs.start import note_if_moved, start_from
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, load_encoder, save_encoder


def saved(folder: Path, *, seed: int) -> str:
    torch.manual_seed(seed)
    config = EncoderConfig(backbone="test_efficientnet_gn", preprocessing=Preprocessing(image_size=16))
    return save_encoder(Encoder(config), folder / "pretrain" / "encoder", lineage={"seed": seed})


def test_an_encoder_is_copied_whole_and_again_after_a_cut(tmp_path: Path) -> None:
    identity = saved(tmp_path / "run", seed=1)
    out = tmp_path / "start"
    (out / "encoder").mkdir(parents=True)
    (out / "encoder" / "encoder.json").write_text("{ cut")
    for _ in range(2):
        assert start_from(str(tmp_path / "run"), tmp_path, out)["encoder_id"] == identity
    assert load_encoder(out / "encoder").id == identity
    assert load_encoder(out / "untrained").id != identity


def test_a_name_that_stands_for_another_encoder_now_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = saved(tmp_path / "run", seed=1)
    start_from(str(tmp_path / "run"), tmp_path, tmp_path / "start")
    note_if_moved(str(tmp_path / "run"), tmp_path, tmp_path / "start")
    assert capsys.readouterr().err == ""
    now = saved(tmp_path / "run", seed=2)
    note_if_moved(str(tmp_path / "run"), tmp_path, tmp_path / "start")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is encoder {now} now; this run keeps {began}" in line


def test_a_name_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no encoder there"):
        start_from(str(tmp_path / "nowhere"), tmp_path, tmp_path / "start")
