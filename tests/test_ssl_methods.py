"""What holds for every method of the registry."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from viewfold.config import choose, dump
from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.methods import CCI, CCI_PRESETS, METHOD_CONFIGS, METHODS, CCIConfig, Method, Task
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig
from viewfold.values import Views

TASK = Task(param_names=tuple(f"latent_{i}" for i in range(7)), num_labels=3, num_domains=2)


def _encoder(equivariant_dim: int = 96) -> Encoder:
    return Encoder(EncoderConfig(equivariant_dim=equivariant_dim, preprocessing=Preprocessing(image_size=16)))


def _views(num_views: int = 2) -> Views:
    generator = torch.Generator().manual_seed(2)
    return Views(
        images=torch.rand(num_views, 6, 3, 16, 16, generator=generator),
        params=torch.rand(num_views, 6, 7, generator=generator),
        names=TASK.param_names,
        label=torch.tensor([0, 1, 2, 0, 1, 2]),
        domain=torch.tensor([0, 0, 0, 1, 1, 1]),
        group=torch.arange(6),
        parent=torch.tensor([[0, 0, 1, 1, 2, -1], [0, 1, 1, -1, 2, 0]]),
    )


SMALL: dict[str, dict[str, Any]] = {
    "augself": {"expander_widths": [48, 32], "regressor_width": 32},
    "equimod": {"expander_widths": [48, 32]},
    "mcr2": {"hidden_widths": [32], "dim": 8},
    "mlc": {"hidden_widths": [32], "dim": 8, "eta_batch": 6},
    "sie": {"expander_widths": [48, 32]},
    "sie-equivariant": {"expander_widths": [48, 32]},
    "simclr": {"expander_widths": [48, 32]},
    "supervised": {"transformation": "rotation", "regressor_width": 32},
    "tcr": {"hidden_widths": [32], "dim": 8},
    "transitive": {"expander_widths": [48, 32]},
    "vicreg": {"expander_widths": [48, 32]},
}
"""Widths that train in milliseconds; what is not named stays as published."""


def _built(name: str) -> Method:
    torch.manual_seed(0)
    config = choose("method", METHOD_CONFIGS, {"name": name, **SMALL.get(name, {})})
    head = SubspaceHeadConfig(part="invariant", part_dim=160, hidden_widths=(32,), dim=8)
    task = replace(TASK, head=SubspaceHead(head) if name == "mlc" else None, paired=name == "transitive")
    return METHODS[name].build(config, _encoder(), task)


@pytest.mark.parametrize("name", METHODS)
def test_configuration_is_found_by_name_and_survives_being_written(name: str) -> None:
    config = choose("method", METHOD_CONFIGS, {"name": name})
    assert config == METHODS[name].config_class()
    assert config.name == name
    assert choose("method", METHOD_CONFIGS, dump(config)) == config


@pytest.mark.parametrize("name", METHODS)
def test_outcome_holds_scalars_and_detached_parts(name: str) -> None:
    outcome = _built(name)(_views())
    assert all(term.shape == () and term.isfinite() for term in outcome.terms.values())
    assert {part: tuple(rows.shape) for part, rows in outcome.features.items()} == {
        "all": (12, 256),
        "equivariant": (12, 96),
        "invariant": (12, 160),
    }
    assert not any(rows.requires_grad for rows in outcome.features.values())


@pytest.mark.parametrize("name", METHODS)
def test_terms_stay_float32_under_bfloat16_autocast(name: str) -> None:
    exact = _built(name)(_views()).terms
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = _built(name)(_views()).terms
    torch.testing.assert_close(terms, exact, rtol=0.1, atol=0.01)  # dtypes too


@pytest.mark.parametrize("name", METHODS)
def test_loss_falls_on_a_batch_that_is_seen_again(name: str) -> None:
    method, views = _built(name), _views()
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        loss = sum(method(views).terms.values(), start=torch.zeros(()))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "cc"}, "unknown method 'cc' .*'cci'.*; known: augself, cci, equimod"),
        ({}, "unknown method .*known: augself, cci, equimod"),
        ({"name": "sie", "variances": 1}, "unknown key 'variances' .*'variance'"),
        ({"name": "cci", "tau": 0}, r"tau must be above 0, got 0\.0"),
        ({"name": "cci", "form": "out", "eps": 1e-7}, "eps must be above 0 and belongs to form 'in'"),
        ({"name": "cci", "cci_weight": 0, "ce_weight": 0}, "not both 0"),
    ],
)
def test_configuration_that_cannot_be_used_is_refused_in_one_line(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        choose("method", METHOD_CONFIGS, data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CCI_PRESETS)
def test_presets_can_be_trained(name: str) -> None:
    outcome = CCI.build(CCI_PRESETS[name], _encoder(), TASK)(_views(1))
    assert outcome.facts["valid_anchor_share"].item() == 1
    assert set(outcome.terms) == {"cci", "classification"}


def test_two_views_of_a_known_group_are_no_pair_of_cci() -> None:
    views = _views(2)
    once = CCI.build(CCIConfig(), _encoder(), TASK)(Views(**{**vars(views), "group": torch.zeros(6, dtype=torch.long)}))
    assert once.facts["valid_anchor_share"].item() == 0
    assert once.terms["cci"].item() == 0


@pytest.mark.parametrize(
    ("config", "equivariant_dim", "task", "message"),
    [
        (CCIConfig(), 0, Task((), 1), "two classes or more, the data has 1"),
        (CCIConfig(positives="cross_domain"), 0, Task((), 3, 1), "two domains or more, the data has 1"),
        (CCIConfig(), 256, Task((), 3), "invariant part and it is empty"),
    ],
)
def test_cci_refuses_what_it_cannot_learn_from(
    config: CCIConfig, equivariant_dim: int, task: Task, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        CCI.build(config, _encoder(equivariant_dim), task)
