"""The methods that SIE is compared with: tabulated values, what each trains on which features, what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from reference import first_view, second_view
from torch import Tensor
from torch.nn import functional as F

from viewfold.config import choose
from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.equivariant import EquivariantHead
from viewfold.ssl.methods import METHOD_CONFIGS, METHODS, Method, Supervised, Task
from viewfold.ssl.methods.regression import joined_pair, regression_loss, regressor
from viewfold.ssl.methods.vicreg import vicreg_terms
from viewfold.values import Views

X, Y = first_view(6, 9), second_view(6, 9)
POSE = tuple(f"latent_{i}" for i in range(7))
TASK = Task(POSE, num_labels=3)
SMALL: dict[str, Any] = {"expander_widths": [24, 16]}
FOLLOWING = ("augself", "equimod", "sie-equivariant")
IN_PAIRS = (*FOLLOWING, "sie", "simclr", "supervised", "vicreg")


@pytest.mark.parametrize(("free_dims", "total"), [(0, 6.5727211207), (4, 6.9827699396)])
def test_vicreg_has_the_tabulated_totals(free_dims: int, total: float) -> None:
    terms = vicreg_terms(X, Y, invariance=10, variance=10, covariance=1, free_dims=free_dims)
    assert sum(term.item() for term in terms.values()) == pytest.approx(total, abs=1e-9)
    assert terms["invariance"].item() == pytest.approx(0.2214407447 * 10 if free_dims else 0.1804358628 * 10, abs=1e-8)
    lower = vicreg_terms(X.float(), Y.float(), invariance=10, variance=10, covariance=1, free_dims=free_dims)
    assert sum(term.item() for term in lower.values()) == pytest.approx(total, rel=1e-5)


def _encoder(equivariant_dim: int = 96) -> Encoder:
    preprocessing = Preprocessing(image_size=16)
    return Encoder(EncoderConfig(backbone="resnet-small", equivariant_dim=equivariant_dim, preprocessing=preprocessing))


def _built(name: str, *, equivariant_dim: int = 96, task: Task = TASK, **settings: Any) -> Method:
    torch.manual_seed(0)
    config = choose("method", METHOD_CONFIGS, {"name": name, **settings})
    return METHODS[name].build(config, _encoder(equivariant_dim), task)


def _small(name: str) -> dict[str, Any]:
    return {} if name == "supervised" else SMALL


def _views(num_views: int = 2, *, label: Tensor | None = None) -> Views:
    generator = torch.Generator().manual_seed(4)
    unknown = torch.full((6,), -1)
    return Views(
        images=torch.rand(num_views, 6, 3, 16, 16, generator=generator),
        params=torch.rand(num_views, 6, 7, generator=generator),
        names=POSE,
        label=torch.tensor([0, 1, 2, 0, 1, -1]) if label is None else label,
        domain=unknown,
        group=unknown,
    )


def _learns(method: Method, views: Views, columns: slice) -> bool:
    """Whether the loss pulls at these columns of the features."""
    caught: list[Tensor] = []
    hook = method.encoder.register_forward_hook(lambda module, args, features: caught.append(features))
    loss = torch.stack([*method(views).terms.values()]).sum()
    hook.remove()
    return all(grad[:, columns].abs().max() > 0 for grad in torch.autograd.grad(loss, caught))


@pytest.mark.parametrize(
    ("name", "settings", "terms"),
    [
        ("vicreg", SMALL, {"invariance", "variance", "covariance"}),
        ("simclr", SMALL, {"info_nce"}),
        ("sie-equivariant", SMALL, {"equivariance", "variance", "covariance", "prediction_variance"}),
        ("equimod", SMALL, {"info_nce", "prediction_info_nce"}),
        (
            "equimod",
            {**SMALL, "loss": "vicreg"},
            {f"{of}{term}" for of in ("", "prediction_") for term in ("invariance", "variance", "covariance")},
        ),
        ("augself", {**SMALL, "regressor_width": 8}, {"info_nce", "regression"}),
        ("supervised", {}, {"classification"}),
        ("supervised", {"transformation": "rotation", "regressor_width": 8}, {"classification", "regression"}),
        ("supervised", {"transformation": "rotation", "classification": 0}, {"regression"}),
    ],
)
def test_step_reaches_every_weight(name: str, settings: dict[str, Any], terms: set[str]) -> None:
    method, views = _built(name, **settings), _views()
    outcome = method(views)
    assert set(outcome.terms) == terms
    loss = torch.stack([*outcome.terms.values()]).sum()
    # A residual branch starts with a gain of 0, which hides the weights before it; heads have none of these.
    heads = [p for key, p in method.named_parameters() if not key.startswith("encoder.")]
    first = next(method.encoder.parameters())
    gradients = torch.autograd.grad(loss, [*heads, first])
    assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in gradients)


@pytest.mark.parametrize("name", ["vicreg", "simclr", *FOLLOWING])
def test_self_supervised_baselines_use_all_features_whatever_the_split(name: str) -> None:
    method, views = _built(name, **SMALL), _views()
    assert all(_learns(method, views, method.encoder.parts[part]) for part in ("invariant", "equivariant"))
    assert _built(name, equivariant_dim=0, **SMALL)(views).features.keys() == {"all", "invariant"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("augself", None),
        ("equimod", "all"),
        ("sie", "equivariant"),
        ("sie-equivariant", "all"),
        ("simclr", None),
        ("supervised", None),
        ("vicreg", None),
    ],
)
def test_methods_that_predict_an_embedding_keep_a_head(name: str, part: str | None) -> None:
    head = _built(name, **_small(name)).head
    assert head is None or isinstance(head, EquivariantHead)
    assert (head and head.config.part) == part
    if head is not None:
        assert head.config.part_dim == (256 if part == "all" else 96)
        assert (head.config.transformation, head.config.num_params) == ("rotation", 4)


def test_equivariant_only_is_sie_without_the_invariance() -> None:
    method, views = _built("sie-equivariant", **SMALL, covariance=2, prediction_variance=6).eval(), _views()
    assert isinstance(method.head, EquivariantHead)
    x, y = (method.head.embed(method.encoder(images)).double() for images in views.images)
    identity = torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(6, 1)
    prediction = method.head.predict(x.float(), identity).double()
    terms = method(replace(views, params=torch.zeros(2, 6, 7))).terms
    regularised = vicreg_terms(x, y, invariance=0, variance=10, covariance=2)
    hinge = F.relu(1 - torch.sqrt(prediction.var(dim=0) + 1e-4)).mean()
    expected = {
        "equivariance": 10 * (prediction - y).square().mean(),
        "variance": regularised["variance"],
        "covariance": regularised["covariance"],
        "prediction_variance": 6 * hinge / 2,
    }
    torch.testing.assert_close({k: v.double() for k, v in terms.items()}, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", ["simclr", "vicreg"])
def test_factor_of_equimod_scales_what_the_prediction_adds(loss: str) -> None:
    views = _views()
    plain, doubled = (_built("equimod", **SMALL, loss=loss, equivariance_factor=f)(views).terms for f in (1, 2))
    ratios = {name: (doubled[name] / plain[name]).item() for name in plain}
    assert ratios == pytest.approx({name: 2 if name.startswith("prediction_") else 1 for name in plain})


def test_invariance_of_vicreg_leaves_free_dimensions_alone() -> None:
    method = _built("vicreg", **SMALL, free_dims=4, variance=0, covariance=0)
    loss = method(_views()).terms["invariance"]
    grad = torch.autograd.grad(loss, method.expand[-1].weight)[0]  # type: ignore[index, union-attr]
    assert grad[:-4].abs().min(dim=1).values.max() > 0
    assert grad[-4:].abs().max() == 0


def test_regressor_has_the_published_size_and_sees_both_views() -> None:
    layers = regressor(512, 1024, 4)
    assert sum(p.numel() for p in layers.parameters()) == 1024 * 1025 + 1024 * 1025 + 1025 * 4
    pair = torch.arange(12.0).view(2, 3, 2)
    assert joined_pair(pair).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


def test_loss_of_a_bfloat16_regression_is_computed_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = regression_loss(X.bfloat16(), Y.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.1804358628, rel=0.02)


@pytest.mark.parametrize(
    ("settings", "learned", "untouched"),
    [
        ({}, "invariant", "equivariant"),
        ({"transformation": "rotation", "classification": 0}, "equivariant", "invariant"),
    ],
)
def test_supervision_reaches_the_part_that_it_belongs_to(
    settings: dict[str, Any], learned: str, untouched: str
) -> None:
    method = _built("supervised", **settings)
    assert _learns(method, _views(), method.encoder.parts[learned])
    assert not _learns(method, _views(), method.encoder.parts[untouched])


@pytest.mark.parametrize(("equivariant_dim", "settings"), [(0, {"classification": 0}), (256, {"transformation": ""})])
def test_supervision_of_an_empty_part_reaches_all_features(equivariant_dim: int, settings: dict[str, Any]) -> None:
    method = _built("supervised", equivariant_dim=equivariant_dim, **{"transformation": "rotation", **settings})
    assert _learns(method, _views(), slice(0, 256))


def test_unlabelled_rows_teach_the_transformation_only() -> None:
    method, known = _built("supervised", transformation="rotation").eval(), _views()
    terms = method(replace(known, label=torch.full((6,), -1))).terms
    assert terms["classification"].item() == 0
    torch.testing.assert_close(terms["regression"], method(known).terms["regression"])
    assert isinstance(method, Supervised)
    assert method.classify is not None
    h = method.encoder(known.images[:, :5].flatten(0, 1))[:, method.encoder.parts["invariant"]]
    expected = F.cross_entropy(method.classify(h), known.label[:5].repeat(2))
    torch.testing.assert_close(method(known).terms["classification"], expected)


@pytest.mark.parametrize("name", IN_PAIRS)
def test_one_view_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"method {name} compares two views( or more)?, got 1; choose a policy"):
        _built(name, **_small(name))(_views(1))


@pytest.mark.parametrize("name", FOLLOWING)
def test_data_without_the_transformation_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"record no parameters .* needs latent_0"):
        _built(name, **SMALL, task=Task((), 3))
    with pytest.raises(InvalidInput, match=r"unknown transformation 'rotations'.*'rotation'"):
        _built(name, **SMALL, transformation="rotations")


def test_supervision_without_classes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="two classes or more, the data has 1; label it, or set classification to 0"):
        _built("supervised", task=Task(POSE, 1))
    assert _built("supervised", classification=0, transformation="rotation", task=Task(POSE, 0)).head is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "vicreg", "free_dims": 2048}, r"free_dims must lie in 0\.\.2047, got 2048"),
        ({"name": "vicreg", "variance": -1}, "variance must lie in"),
        ({"name": "simclr", "tau": 0}, r"tau must be above 0, got 0\.0"),
        ({"name": "augself", "regressor_width": 0}, r"regressor_width must lie in 1\.\."),
        ({"name": "sie-equivariant", "expander_widths": [8, 1]}, "expander_widths"),
        ({"name": "equimod", "loss": "vicreg", "tau": 0.2}, "tau has no effect with loss 'vicreg'; leave it out"),
        ({"name": "equimod", "variance": 5}, "variance has no effect with loss 'simclr'; leave it out"),
        ({"name": "equimod", "loss": "byol"}, "loss: Input should be 'simclr' or 'vicreg'"),
        ({"name": "supervised", "classification": 0}, "nothing to learn; set one of them"),
        ({"name": "supervised", "transformation": "rotation", "regression": 0}, "or leave transformation empty"),
        ({"name": "supervised", "regression": 2}, "regression has no effect with an empty transformation"),
    ],
)
def test_configuration_that_cannot_be_used_is_refused_in_one_line(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        choose("method", METHOD_CONFIGS, data)
    assert "\n" not in str(caught.value)
