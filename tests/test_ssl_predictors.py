"""Predictors against tabulated values, dense twins, published sizes and their algebra."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from reference import first_view, grid, hypernetwork_weight, transformations
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.config import choose, dump
from viewfold.errors import InvalidInput
from viewfold.ssl.predictors import (
    PREDICTOR_CONFIGS,
    PREDICTORS,
    DeepPredictor,
    GeneratedPredictor,
    LinearPredictor,
    Predictor,
    build_predictor,
)

Rows = tuple[tuple[float, float, float], tuple[float, float, float]]


def _predictor(data: dict[str, Any], dim: int, num_params: int) -> Predictor:
    return build_predictor(choose("predictor", PREDICTOR_CONFIGS, data), dim=dim, num_params=num_params)


def _tabulated(data: dict[str, Any], dim: int, num_params: int) -> Predictor:
    """With element q of parameter number m at 0.5 sin(1 + m + 0.7 q)."""
    predictor = _predictor(data, dim, num_params).double()
    for number, parameter in enumerate(predictor.parameters()):
        _, q = grid(1, parameter.numel())
        parameter.data = 0.5 * torch.sin(1 + number + 0.7 * q).view_as(parameter)
    return predictor


@pytest.mark.parametrize(
    ("data", "num_parameters", "rows"),
    [
        pytest.param(
            {"name": "linear"},
            36,
            ((-0.1149764367, 0.2126118306, -0.1058373861), (-0.0764524339, 0.1599919689, -0.0897115946)),
            id="linear",
        ),
        pytest.param(
            {"name": "linear", "bias": True},
            45,
            ((0.0724897702, -0.6772484437, 0.6051813933), (0.5132385554, -0.7913166449, 0.2811263122)),
            id="linear-bias",
        ),
        pytest.param(
            {"name": "deep"},
            68,
            ((-0.0020962266, -0.0069648856, 0.0093297987), (-0.0197591587, 0.0079773981, 0.0114740141)),
            id="deep",
        ),
        pytest.param(
            {"name": "deep", "bias": True},
            85,
            ((0.5746568646, 0.3521440810, -0.9302139997), (0.1875884394, 0.7177544585, -0.9122995243)),
            id="deep-bias",
        ),
        pytest.param(
            {"name": "generated", "hidden_widths": [6], "relu": True, "generated_bias": True},
            180,
            ((-0.4485858907, 0.2334560269, -0.2223541587), (-0.3092841594, -0.0910934627, 0.2746857261)),
            id="generated-relu-generated-bias",
        ),
        pytest.param(
            {"name": "generated", "hidden_widths": [6]},
            144,
            ((-0.1880920225, 0.1555074105, 0.0448141542), (-0.0169034584, 0.1087304014, -0.0832760770)),
            id="generated",
        ),
        pytest.param(
            {"name": "mlp"},
            24,
            ((-0.3273790466, -0.4090572798, 0.4219570899), (-0.6449527497, 0.1239477959, 0.9383548722)),
            id="mlp-1",
        ),
        pytest.param(
            {"name": "mlp", "num_layers": 2},
            36,
            ((-0.5791688686, -0.4545759267, -0.2314402126), (-0.8577074798, -0.4278253924, 0.0200885925)),
            id="mlp-2",
        ),
        pytest.param(
            {"name": "mlp", "num_layers": 3},
            48,
            ((-0.1397077491, 0.2024249603, 0.4493540479), (-0.1385370944, 0.2104452014, 0.4400854182)),
            id="mlp-3",
        ),
    ],
)
def test_prediction_and_size_are_the_tabulated_ones(data: dict[str, Any], num_parameters: int, rows: Rows) -> None:
    predictor = _tabulated(data, dim=3, num_params=4)
    assert sum(p.numel() for p in predictor.parameters()) == num_parameters
    prediction = predictor(first_view(2, 3), transformations(2))
    torch.testing.assert_close(prediction, torch.tensor(rows, dtype=torch.float64), atol=1e-9, rtol=0)


def test_prediction_has_the_rows_that_are_tabulated_with_the_loss() -> None:
    head = LinearPredictor(4, 4).double()
    head.weight.data = hypernetwork_weight(4, 4)
    prediction = head(first_view(6, 9)[:, 5:], transformations(6)).detach()
    assert prediction[0].tolist() == pytest.approx((-0.3161544354, 0.2146905043, 0.0354922782, -0.2610891067), abs=1e-9)
    assert prediction[5].tolist() == pytest.approx((-0.0028008129, 0.9501623577, -1.2393343150, 0.6700035805), abs=1e-9)


def _dense_linear(head: LinearPredictor, x: Tensor, z: Tensor) -> Tensor:
    matrices = torch.einsum("ijk,bk->bij", head.weight, z)
    if head.bias is not None:
        matrices = matrices + head.bias
    return torch.einsum("bij,bj->bi", matrices, x)


def _dense_deep(predictor: DeepPredictor, x: Tensor, z: Tensor) -> Tensor:
    first, _, second, _ = predictor.hidden
    return _dense_linear(predictor.matrix, x, second(first(z).relu()).relu())


def _dense_generated(predictor: GeneratedPredictor, x: Tensor, z: Tensor) -> Tensor:
    """A network for each row, cut out of the row of its parameters."""
    config, dim = predictor.config, x.shape[1]
    predictions = []
    for row, transformation in zip(x, z, strict=True):
        flat = (F.linear(transformation, predictor.weight, predictor.bias)).tolist()
        widths = list(pairwise((dim, *config.hidden_widths, dim)))
        for number, (fan_in, out) in enumerate(widths):
            matrix = torch.tensor([[flat.pop(0) for _ in range(fan_in)] for _ in range(out)], dtype=x.dtype)
            shift = torch.tensor([flat.pop(0) for _ in range(out)] if config.generated_bias else [0.0], dtype=x.dtype)
            row = matrix @ row + shift
            row = row.relu() if config.relu and number < len(widths) - 1 else row
        assert not flat
        predictions.append(row)
    return torch.stack(predictions)


@pytest.mark.parametrize(
    ("data", "dense"),
    [
        ({"name": "linear"}, _dense_linear),
        ({"name": "linear", "bias": True}, _dense_linear),
        ({"name": "deep"}, _dense_deep),
        ({"name": "deep", "bias": True}, _dense_deep),
        ({"name": "generated", "hidden_widths": [7, 2]}, _dense_generated),
        ({"name": "generated", "hidden_widths": [7, 2], "relu": True, "bias": True}, _dense_generated),
        ({"name": "generated", "hidden_widths": [7], "generated_bias": True, "bias": True}, _dense_generated),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.__name__,  # the same in every process
)
def test_prediction_is_that_of_the_matrices_written_out(data: dict[str, Any], dense: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    predictor = _predictor(data, 5, 6).double()
    x, z = torch.randn(8, 5).double(), torch.randn(8, 6).double()
    torch.testing.assert_close(predictor(x, z), dense(predictor, x, z))


def test_linear_prediction_is_bilinear_and_changes_sign_with_the_transformation_bit_for_bit() -> None:
    torch.manual_seed(0)
    head, x, z = LinearPredictor(8, 4), torch.randn(3, 8), torch.randn(3, 4)
    assert torch.equal(head(x, -z), -head(x, z))
    assert head(x, 0 * z).abs().max() == 0
    other, w = torch.randn(3, 8), torch.randn(3, 4)
    expected = 2 * head(x, z) + 2 * head(x, w) - head(other, z) - head(other, w)
    torch.testing.assert_close(head(2 * x - other, z + w), expected)


@pytest.mark.parametrize("data", [{"name": "deep"}, {"name": "generated", "relu": True, "generated_bias": True}])
def test_without_bias_no_transformation_predicts_zero(data: dict[str, Any]) -> None:
    assert _predictor(data, 5, 4)(torch.randn(3, 5), torch.zeros(3, 4)).abs().max() == 0


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_is_read_back_from_its_name_and_trains_all_its_parameters(name: str) -> None:
    torch.manual_seed(0)
    config = choose("predictor", PREDICTOR_CONFIGS, {"name": name})
    assert choose("predictor", PREDICTOR_CONFIGS, dump(config)) == config
    predictor = build_predictor(config, dim=6, num_params=5)
    x, z = torch.randn(32, 6, requires_grad=True), torch.randn(32, 5)
    predictor(x, z).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in predictor.parameters())
    assert x.grad is not None
    assert predictor(x[:1], z[:1]).shape == (1, 6)  # a batch of one keeps its axis
    torch.testing.assert_close(predictor(x[:1], z[:1]), predictor(x, z)[:1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "generated", "hidden_widths": []}, "hidden_widths must be one or more widths"),
        ({"name": "mlp", "num_layers": 0}, "num_layers must be 1 or more"),
        ({"name": "linear", "gain": -1.0}, "gain must be 0 or more"),
        ({"name": "depp"}, "did you mean 'deep'"),
    ],
)
def test_a_predictor_that_cannot_be_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        choose("predictor", PREDICTOR_CONFIGS, data)


def test_linear_predictor_has_the_published_size() -> None:
    assert sum(p.numel() for p in LinearPredictor(1024, 4).parameters()) == 4_194_304


def test_untrained_prediction_has_the_closed_form_gain() -> None:
    torch.manual_seed(0)
    x, z = torch.randn(64, 256), nn.functional.normalize(torch.randn(64, 4))
    gain = LinearPredictor(256, 4)(x, z).std() / x.std()
    assert gain.item() == pytest.approx(math.sqrt(256 / 12), rel=0.03)
