"""SIE's terms and gradients against the tabulated values of the published method."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import first_view, grid, hypernetwork_weight, second_view, transformations
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.methods import SIE, SIEConfig, Task
from viewfold.ssl.methods.sie import sie_terms
from viewfold.ssl.predictors import LinearPredictor
from viewfold.values import Views

PUBLISHED = SIEConfig()
POSE = tuple(f"latent_{i}" for i in range(7))
DRAWN = ("rotation_rad", "log_scale_x")


def _terms(inputs: Sequence[Tensor], config: SIEConfig = PUBLISHED) -> dict[str, Tensor]:
    """Of two views' embeddings (five invariant columns, four equivariant ones), transformation, predictor's weight."""
    x, y, z, weight = inputs
    predict = LinearPredictor(4, z.shape[1]).to(x.dtype)
    prediction = torch.func.functional_call(predict, {"weight": weight}, (x[:, 5:], z))
    return sie_terms((x[:, :5], x[:, 5:]), (y[:, :5], y[:, 5:]), prediction, config)


def _inputs(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    values = (first_view(6, 9), second_view(6, 9), transformations(6), hypernetwork_weight(4, 4))
    return [value.to(dtype).requires_grad_() for value in values]


def test_terms_have_the_tabulated_values() -> None:
    terms = {name: term.item() for name, term in _terms(_inputs()).items()}
    assert terms == pytest.approx(
        {
            "invariance": 10 * 0.2214407447,
            "equivariance": 4.5 * 1.0275584005,
            "variance": 10 * 0.2394951135,
            "prediction_variance": 10 * 0.2466171358,
            "covariance": 2.3734113577,
        },
        abs=2e-9,
    )
    assert sum(terms.values()) == pytest.approx(14.0729541001, abs=1e-9)
    assert sum(terms.values()) - terms["prediction_variance"] == pytest.approx(11.6067827417, abs=1e-9)


def test_gradients_have_the_tabulated_values() -> None:
    x, y, z, weight = _inputs()
    loss = torch.stack([*_terms((x, y, z, weight)).values()]).sum()
    grad_x, grad_y, grad_h = torch.autograd.grad(loss, (x, y, weight))
    norms = [grad.norm().item() for grad in (grad_x, grad_y, grad_h)]
    assert norms == pytest.approx([2.18372181, 2.61102054, 2.74424855], abs=1e-8)
    assert grad_x[0, :3].tolist() == pytest.approx((-0.4503113538, 0.0872913748, 0.4697176162), abs=1e-9)
    first_of_h = (0.3173508675, -0.2270877319, -0.0648246073, -0.1179916797)
    assert grad_h[0, 0].tolist() == pytest.approx(first_of_h, abs=1e-9)


def test_rotation_and_colour_have_the_tabulated_total() -> None:
    i, _ = grid(6, 1)
    z = torch.cat([transformations(6), 0.5 * i.sin(), 0.5 * i.cos()], dim=1)
    terms = _terms((first_view(6, 9), second_view(6, 9), z, hypernetwork_weight(4, 6)))
    assert terms["equivariance"].item() == pytest.approx(4.5 * 0.9996393233, abs=1e-9)
    assert terms["prediction_variance"].item() == pytest.approx(10 * 0.3043021797, abs=1e-9)
    assert sum(term.item() for term in terms.values()) == pytest.approx(14.5241686913, abs=1e-9)


def test_float32_and_bfloat16_totals() -> None:
    total = sum(term.item() for term in _terms(_inputs(torch.float32)).values())
    assert total == pytest.approx(14.0729532, abs=5e-6)
    terms = _terms(_inputs(torch.bfloat16))
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert sum(term.item() for term in terms.values()) == pytest.approx(14.073, rel=0.02)


def test_each_weight_scales_its_terms() -> None:
    plain = _terms(_inputs())
    doubled = _terms(
        _inputs(), SIEConfig(invariance=20, equivariance_factor=0.9, variance=20, prediction_variance=20, covariance=2)
    )
    ratios = {name: (doubled[name] / plain[name]).item() for name in plain}
    expected = {"invariance": 2, "equivariance": 4, "variance": 2, "prediction_variance": 2, "covariance": 2}
    assert ratios == pytest.approx(expected)


def _encoder(equivariant_dim: int = 96) -> Encoder:
    return Encoder(EncoderConfig(equivariant_dim=equivariant_dim, preprocessing=Preprocessing(image_size=16)))


def _views(num_views: int = 2, *, known: bool = True) -> Views:
    unknown = torch.full((6,), -1)
    return Views(
        images=torch.rand(num_views, 6, 3, 16, 16),
        params=torch.rand(num_views, 6, 7) if known else None,
        names=POSE if known else (),
        label=unknown,
        domain=unknown,
        group=unknown,
        relative=torch.rand(6, 2) if known else None,
        relative_names=DRAWN if known else (),
    )


SMALL = SIEConfig(expander_widths=(24, 16))


def test_views_pass_one_at_a_time_through_batchnorm() -> None:
    method = SIE.build(SMALL, _encoder(), Task(param_names=POSE, num_labels=0))
    norms = [m for m in method.modules() if isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))]
    method(_views())
    assert {int(norm.num_batches_tracked) for norm in norms} == {2}  # type: ignore[arg-type]


def test_each_part_gets_an_expander_of_its_own_width() -> None:
    method = SIE.build(replace(SMALL, transformation="rotation+colour"), _encoder(96), Task(POSE, 0))
    assert method.expand_invariant[0].in_features == 256 - 96
    assert method.head.embed[0].in_features == 96
    assert method.head.predict.weight.shape == (16, 16, 6)


def test_predictor_follows_what_was_drawn() -> None:
    drawn = replace(SMALL, transformation="drawn")
    method = SIE.build(drawn, _encoder(), Task((), 0, relative_names=DRAWN)).eval()
    assert method.head.predict.weight.shape == (16, 16, 2)
    views = replace(_views(), params=None, names=())
    assert views.relative is not None
    # Linear in the transformation: none drawn predicts zeros, so the target's own square is left.
    still = method(replace(views, relative=torch.zeros_like(views.relative))).terms["equivariance"]
    target = method.head.embed(method.encoder(views.images[1])[:, method.encoder.parts["equivariant"]])
    torch.testing.assert_close(still, 4.5 * target.square().mean())
    assert not torch.isclose(method(views).terms["equivariance"], still)


def test_invariance_does_not_reach_the_equivariant_part() -> None:
    method = SIE.build(
        replace(SMALL, equivariance_factor=0, variance=0, prediction_variance=0, covariance=0),
        _encoder(),
        Task(POSE, 0),
    )
    loss = torch.stack([*method(_views()).terms.values()]).sum()
    heads = (*method.expand_invariant.parameters(), *method.head.embed.parameters())
    grads = [float(grad.norm()) for grad in torch.autograd.grad(loss, heads)]
    assert grads[0] > 0
    assert max(grads[len(grads) // 2 :]) == 0


@pytest.mark.parametrize("equivariant_dim", [0, 256])
def test_encoder_without_both_parts_is_refused(equivariant_dim: int) -> None:
    with pytest.raises(InvalidInput, match=r"part is empty; set encoder\.equivariant_dim between 1 and 255"):
        SIE.build(SMALL, _encoder(equivariant_dim), Task(POSE, 0))


@pytest.mark.parametrize(
    ("transformation", "message"),
    [("rotation", r"views record no parameters .* needs latent_0"), ("drawn", r"nothing is drawn .* set policy\.name")],
)
def test_data_without_the_transformation_is_refused(transformation: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SIE.build(replace(SMALL, transformation=transformation), _encoder(), Task((), 0))


@pytest.mark.parametrize(
    ("views", "message"), [(_views(1), "two views or more, got 1; choose"), (_views(known=False), "needs latent_0")]
)
def test_views_that_cannot_be_compared_are_refused(views: Views, message: str) -> None:
    method = SIE.build(SMALL, _encoder(), Task(POSE, 0))
    with pytest.raises(InvalidInput, match=message):
        method(views)


@pytest.mark.parametrize(
    ("field", "value"),
    [("transformation", "rotations"), ("expander_widths", ()), ("expander_widths", (8, 1)), ("variance", -1.0)],
)
def test_configuration_out_of_range_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        SIEConfig(**{field: value})
