from pathlib import Path
from weakref import WeakSet

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from viewfold.errors import InvalidInput
from viewfold.ssl.state import FILE, Piece, State, plain_pieces, read_state, take_plain, write_state

ALL_KINDS = {
    "flag": torch.tensor([True, False, True]),
    "scalar": torch.tensor(3.5),
    "wide": torch.arange(5, dtype=torch.int64),
    "half": torch.randn(3, 5, dtype=torch.float32).bfloat16(),
    "empty": torch.empty(0, 4),
    "images": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "double": torch.randn(3, dtype=torch.float64),
    "bytes": torch.arange(7, dtype=torch.uint8),
}


def pieces(tensors: dict[str, Tensor]) -> dict[str, Piece]:
    return {name: Piece(value.to("meta"), value.clone) for name, value in tensors.items()}


def trained(memory_format: torch.memory_format) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A layer after two updates, a second one that never had a gradient, and their Adam."""
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Linear(2, 2)]).to(memory_format=memory_format)
    optimizer = torch.optim.Adam(layers.parameters(), fused=True)
    for step in range(2):
        update(layers, optimizer, step)
    return layers, optimizer


def update(layers: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    optimizer.zero_grad()
    torch.autograd.backward(layers.get_submodule("0")(images).square().sum())
    optimizer.step()


def test_safetensors_reads_what_was_written(tmp_path: Path) -> None:
    write_state(tmp_path, pieces(ALL_KINDS), steps_done=7)
    read = load_file(tmp_path / FILE)
    assert read.keys() == ALL_KINDS.keys()
    for name, value in ALL_KINDS.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)
    with read_state(tmp_path) as state:
        assert state.steps_done == 7
        assert "wide" in state
        assert "narrow" not in state
        assert torch.equal(state["images"], ALL_KINDS["images"])


def test_tensors_are_brought_together_one_at_a_time(tmp_path: Path) -> None:
    alive: list[int] = []

    def whole() -> Tensor:
        value = torch.full((1000,), 7.0)
        values.add(value)
        alive.append(len(values))
        return value

    values: WeakSet[Tensor] = WeakSet()
    write_state(tmp_path, {str(i): Piece(torch.empty(1000, device="meta"), whole) for i in range(4)}, steps_done=0)
    assert alive == [1, 1, 1, 1]


def test_updates_go_on_in_a_layer_that_lies_otherwise_in_memory(tmp_path: Path) -> None:
    layers, optimizer = trained(torch.channels_last)
    write_state(tmp_path, plain_pieces(layers, optimizer), steps_done=2)
    other = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Linear(2, 2)])
    others = torch.optim.Adam(other.parameters(), fused=True)
    with read_state(tmp_path) as state:
        take_plain(other, others, state)
    assert len(others.state) == 2, "the layer that was never updated has no moments"
    update(layers, optimizer, 2)
    update(other, others, 2)
    torch.testing.assert_close(dict(other.state_dict()), dict(layers.state_dict()), rtol=0, atol=1e-7)


def read(folder: Path, shapes: dict[str, torch.Size]) -> State:
    with read_state(folder) as state:
        state.require_weights(shapes)
        return state


def test_weights_of_another_method_are_refused(tmp_path: Path) -> None:
    write_state(tmp_path, pieces({"weights/a": torch.ones(2, 3), "weights/b": torch.ones(1)}), steps_done=0)
    read(tmp_path, {"a": torch.Size([2, 3]), "b": torch.Size([1])})
    with pytest.raises(
        InvalidInput, match=r"another method or encoder \(a is of shape \[2, 3\] there and of shape \[3\]"
    ):
        read(tmp_path, {"a": torch.Size([3]), "b": torch.Size([1])})
    with pytest.raises(InvalidInput, match=r"\(b is of shape \[1\] there and missing here\)"):
        read(tmp_path, {"a": torch.Size([2, 3])})


def test_a_folder_without_a_state_and_a_damaged_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=f"no engine wrote its state there .it has no {FILE}"):
        read(tmp_path, {})
    write_state(tmp_path, pieces(ALL_KINDS), steps_done=7)
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-1])
    with pytest.raises(InvalidInput, match=f"{FILE}: damaged .*; resume from an older"):
        read(tmp_path, {})
