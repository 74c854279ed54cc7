"""Stain changes beside a twin that separates the stains by solving for them."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from viewfold.augment.draws import view_keys
from viewfold.augment.stain import Stain, StainConfig, change_stains

HAEMATOXYLIN, EOSIN, RESIDUAL = (np.array(v) / np.linalg.norm(v) for v in [(65, 70, 29), (7, 99, 11), (27, 57, 78)])
STAINS = np.stack([HAEMATOXYLIN, EOSIN, RESIDUAL])


def keys_of(num: int) -> Tensor:
    return view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0)


def light(num: int = 5) -> Tensor:
    images = torch.rand(num, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    images[0, :, :3] = 0
    images[0, :, 3:6] = 1
    return images


def random_changes(num: int = 5) -> tuple[Tensor, Tensor]:
    scale, shift = (torch.rand(2, num, 3, generator=torch.Generator().manual_seed(1)) - 0.5).unbind(0)
    return scale, 0.4 * shift


def stained(concentrations: np.ndarray) -> Tensor:
    """One pixel with these concentrations of the three stains, before a white lamp."""
    return torch.from_numpy(10.0 ** -(concentrations @ STAINS)).float().reshape(1, 3, 1, 1)


def twin(image: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Pixel by pixel: densities, the concentrations that solve for them, changed, and light again."""
    result = np.empty_like(image)
    for y, x in np.ndindex(image.shape[1:]):
        densities = -np.log10(np.maximum(image[:, y, x], 1 / 255))
        concentrations = np.linalg.solve(STAINS.T, densities)
        result[:, y, x] = 10.0 ** -((concentrations * (1 + scale) + shift) @ STAINS)
    return result.clip(0, 1)


def test_changes_are_those_of_the_twin_that_solves_for_each_pixel() -> None:
    images, (scale, shift) = light(), random_changes()
    changed = change_stains(images, scale, shift)
    for i in range(5):
        expected = twin(images[i].double().numpy(), scale[i].double().numpy(), shift[i].double().numpy())
        np.testing.assert_allclose(changed[i].numpy(), expected, atol=1e-5, rtol=0)


def test_changes_of_zero_are_the_identity_from_one_in_255_on() -> None:
    images, zero = light(), torch.zeros(5, 3)
    assert (change_stains(images, zero, zero) - images.clamp(min=1 / 255)).abs().max() <= 1e-5


def test_white_stays_white_without_a_shift() -> None:
    white, (scale, _) = torch.ones(5, 3, 4, 4), random_changes()
    assert torch.equal(change_stains(white, scale, torch.zeros(5, 3)), white)


@pytest.mark.parametrize("stain", range(3))
def test_each_column_changes_its_own_stain_alone(stain: int) -> None:
    before = np.array([0.5, 0.3, 0.1])
    family, scaled, shifted = Stain(StainConfig()), before.copy(), before.copy()
    scaled[stain] *= 1.2
    shifted[stain] += 0.1
    draws = torch.zeros(2, 6)
    draws[0, stain], draws[1, 3 + stain] = 0.2, 0.1
    changed = family.apply(stained(before).expand(2, -1, -1, -1), draws)
    torch.testing.assert_close(changed, torch.cat([stained(scaled), stained(shifted)]), atol=1e-6, rtol=0)
    word = ("haematoxylin", "eosin", "residual")[stain]
    assert (family.names[stain], family.names[3 + stain]) == (f"{word}_scale", f"{word}_shift_od")


def test_changes_are_uniform_to_both_sides_and_independent() -> None:
    draws = Stain(StainConfig(scale=0.2, shift=0.1)).draw(keys_of(4000)).double()
    unit = (draws / torch.tensor([0.2] * 3 + [0.1] * 3) + 1) / 2
    steps = ((torch.arange(4000) + 0.5) / 4000)[:, None]
    assert (unit.sort(dim=0).values - steps).abs().max() < 1.95 / math.sqrt(4000)  # Kolmogorov at 0.1 %
    assert (torch.corrcoef(draws.T) - torch.eye(6)).abs().max() < 4 / math.sqrt(4000)


def test_a_reach_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale must lie in 0..1, got 1.5"):
        StainConfig(scale=1.5)
    with pytest.raises(ValueError, match=r"shift must lie in 0..1, got -0.1"):
        StainConfig(shift=-0.1)
