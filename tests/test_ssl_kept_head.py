import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from subspace_trainees import small_encoder, small_head
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.jobs.evaluate import Candidate
from viewfold.ssl.encoder import save_encoder
from viewfold.ssl.equivariant import EquivariantHead, HeadConfig
from viewfold.ssl.kept_head import KINDS, KeptHead, load_head, save_head
from viewfold.ssl.predictors import LinearPredictorConfig
from viewfold.ssl.subspace_head import SubspaceHead


def equivariant() -> EquivariantHead:
    about = {"part": "equivariant", "part_dim": 16, "transformation": "rotation", "num_params": 4, "widths": (8, 6)}
    return EquivariantHead(HeadConfig(predictor=LinearPredictorConfig(), **about))  # type: ignore[arg-type]


HEADS: dict[str, Callable[[], KeptHead]] = {
    "equivariant": equivariant,
    "subspace": lambda: small_head(16, heads="two"),
}


def keep(head: KeptHead, folder: Path) -> Path:
    """The head in `folder`, as a method's state holds it; returns `head.json`."""
    save_head(head.config, {f"head.{name}": value for name, value in head.state_dict().items()}, folder, encoder_id="e")
    return folder / "head" / "head.json"


def answer(head: KeptHead) -> list[Tensor]:
    x = torch.linspace(-1, 1, 48).view(3, 16)
    return list(head(x)) if isinstance(head, SubspaceHead) else [head(x, torch.ones(3, 4))]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_head_answers_as_before(kind: str, tmp_path: Path) -> None:
    head = HEADS[kind]()
    head(torch.randn(9, 16), *([] if kind == "subspace" else [torch.randn(9, 4)]))  # running statistics move
    assert json.loads(keep(head, tmp_path).read_text())["kind"] == kind
    again = load_head(tmp_path, encoder_id="e")
    assert again is not None
    assert again.config == head.config
    torch.testing.assert_close(answer(again), answer(head.eval()), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_of_another_encoder_is_refused(kind: str, tmp_path: Path) -> None:
    keep(HEADS[kind](), tmp_path)
    with pytest.raises(InvalidInput, match="belongs to encoder e, not f"):
        load_head(tmp_path, encoder_id="f")


def test_heads_from_before_there_were_two_kinds_are_equivariant(tmp_path: Path) -> None:
    path = keep(equivariant(), tmp_path)
    body = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in body.items() if name != "kind"}))
    assert isinstance(load_head(tmp_path, encoder_id="e"), EquivariantHead)


def test_an_unknown_kind_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    path = keep(equivariant(), tmp_path)
    body = path.read_text()
    path.write_text(body.replace('"kind": "equivariant"', '"kind": "hyperbolic"'))
    with pytest.raises(InvalidInput, match="kind 'hyperbolic'; this version reads equivariant, subspace"):
        load_head(tmp_path, encoder_id="e")
    path.write_text(body)
    (path.parent / "head.safetensors").write_bytes(b"")
    with pytest.raises(InvalidInput, match="not the file that was saved"):
        load_head(tmp_path, encoder_id="e")


def test_no_head_is_none_and_evaluation_leaves_a_subspace_head_alone(tmp_path: Path) -> None:
    encoder, head = small_encoder(), small_head(heads="two")
    identity = save_encoder(encoder.eval(), tmp_path / "e", lineage={})
    assert load_head(tmp_path / "e", encoder_id=identity) is None
    state = {f"head.{name}": value for name, value in head.state_dict().items()}
    save_head(head.config, state, tmp_path / "e", encoder_id=identity)
    assert isinstance(load_head(tmp_path / "e", encoder_id=identity), SubspaceHead)
    assert Candidate.load(tmp_path / "e").head is None
