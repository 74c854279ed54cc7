"""Predictors against tabulated values, published sizes and their algebra."""

import math

import pytest
import torch
from reference import first_view, grid, hypernetwork_weight, transformations
from torch import Tensor, nn

from viewfold.ssl.predictors import LinearPredictor


def _predictor(weight: Tensor) -> LinearPredictor:
    head = LinearPredictor(len(weight), weight.shape[2]).double()
    head.weight.data = weight
    return head


def test_prediction_has_the_tabulated_rows() -> None:
    prediction = _predictor(hypernetwork_weight(4, 4))(first_view(6, 9)[:, 5:], transformations(6)).detach()
    assert prediction[0].tolist() == pytest.approx((-0.3161544354, 0.2146905043, 0.0354922782, -0.2610891067), abs=1e-9)
    assert prediction[5].tolist() == pytest.approx((-0.0028008129, 0.9501623577, -1.2393343150, 0.6700035805), abs=1e-9)


def test_weight_is_laid_out_as_out_in_k() -> None:
    r, c = grid(9, 4)
    weight = 0.5 * torch.sin(1 + 0.7 * (4 * r + c))
    prediction = _predictor(weight.view(3, 3, 4))(first_view(2, 3), transformations(2)).detach()
    assert prediction[0].tolist() == pytest.approx((-0.1149764367, 0.2126118306, -0.1058373861), abs=1e-9)
    assert prediction[1].tolist() == pytest.approx((-0.0764524339, 0.1599919689, -0.0897115946), abs=1e-9)


def test_prediction_is_the_generated_matrix_times_x() -> None:
    head = LinearPredictor(5, 6).double()
    x, z = torch.randn(3, 5).double(), torch.randn(3, 6).double()
    torch.testing.assert_close(head(x, z), torch.einsum("ijk,bj,bk->bi", head.weight, x, z))


def test_prediction_changes_sign_with_the_transformation_bit_for_bit() -> None:
    head, x, z = LinearPredictor(8, 4), torch.randn(1, 8), torch.randn(1, 4)
    assert torch.equal(head(x, -z), -head(x, z))
    assert head(x, 0 * z).abs().max() == 0
    assert head(x, z).shape == (1, 8)  # a batch of one keeps its axis


def test_linear_predictor_has_the_published_size() -> None:
    assert sum(p.numel() for p in LinearPredictor(1024, 4).parameters()) == 4_194_304


def test_untrained_prediction_has_the_closed_form_gain() -> None:
    torch.manual_seed(0)
    x, z = torch.randn(64, 256), nn.functional.normalize(torch.randn(64, 4))
    gain = LinearPredictor(256, 4)(x, z).std() / x.std()
    assert gain.item() == pytest.approx(math.sqrt(256 / 12), rel=0.03)
