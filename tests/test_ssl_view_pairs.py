"""More than two views of a sample: every pair is compared, and two views are what they always were."""

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from viewfold.config import choose
from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing
from viewfold.ssl.geometry import relative_rotation
from viewfold.ssl.methods import METHOD_CONFIGS, METHODS, Method, Task
from viewfold.ssl.methods.relations import RELATIONS
from viewfold.ssl.methods.view_pairs import paired, pairs
from viewfold.values import Views

POSE = tuple(f"latent_{i}" for i in range(7))
MANY: dict[str, dict[str, Any]] = {
    "sie": {"expander_widths": [24, 16]},
    "sie-equivariant": {"expander_widths": [24, 16]},
    "supervised": {"transformation": "rotation", "regressor_width": 8},
    "vicreg": {"expander_widths": [24, 16]},
}


def views_of(num_views: int, num_samples: int = 3) -> Views:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(num_samples)
    return Views(
        images=torch.rand(num_views, num_samples, 3, 16, 16, generator=generator),
        params=torch.rand(num_views, num_samples, 7, generator=generator),
        names=POSE,
        label=label,
        domain=label,
        group=label,
    )


def built(name: str, **settings: Any) -> Method:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(equivariant_dim=96, preprocessing=Preprocessing(image_size=16)))
    config = choose("method", METHOD_CONFIGS, {"name": name, **settings})
    return METHODS[name].build(config, encoder, Task(POSE, num_labels=3))


def test_pairs_of_two_views_are_the_views() -> None:
    rows = torch.rand(2, 5, 4)
    assert torch.equal(pairs(rows), rows)
    views = views_of(2)
    assert paired(views) is views


def test_rows_of_a_pair_belong_to_one_sample_and_its_transformation() -> None:
    views = views_of(4)
    assert views.params is not None
    first, second = pairs(torch.arange(12.0).view(4, 3, 1))
    z = RELATIONS["rotation"](paired(views))
    row = 0
    for i, j in combinations(range(4), 2):
        for sample in range(3):
            assert (first[row].item(), second[row].item()) == (3 * i + sample, 3 * j + sample)
            one = relative_rotation(views.params[i, sample, :3], views.params[j, sample, :3])
            torch.testing.assert_close(z[row], one)
            assert paired(views).label[row] == sample
            row += 1
    assert row == len(z) == 18


@pytest.mark.parametrize("name", MANY)
def test_pairwise_terms_are_the_mean_over_pairs_of_two(name: str) -> None:
    """In evaluation mode, where BatchNorm does not look at the batch, and of the terms that do not either."""
    method, views = built(name, **MANY[name]).eval(), views_of(4)
    assert views.params is not None
    together = method(views).terms
    alone: dict[str, list[Tensor]] = {}
    for pair in map(list, combinations(range(4), 2)):
        two = Views(views.images[pair], views.params[pair], POSE, views.label, views.domain, views.group)
        for term, value in method(two).terms.items():
            alone.setdefault(term, []).append(value)
    compared = set(together) & {"invariance", "equivariance", "regression", "classification"}
    assert compared
    for term in compared:
        torch.testing.assert_close(together[term], torch.stack(alone[term]).mean())


@pytest.mark.parametrize("name", ["simclr", "equimod", "augself"])
def test_contrastive_methods_take_two_views_only(name: str) -> None:
    with pytest.raises(InvalidInput, match=rf"method {name} compares two views, got 3"):
        built(name, expander_widths=[24, 16])(views_of(3))
