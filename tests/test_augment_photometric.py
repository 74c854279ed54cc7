"""What every colour family promises, whatever it does: draws by key, zeros that change nothing, rows on their own."""

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch import Tensor

from viewfold.augment.blur import Blur, BlurConfig
from viewfold.augment.colour import Colour, ColourConfig
from viewfold.augment.draws import view_keys
from viewfold.augment.field_colour import FieldColour, FieldColourConfig
from viewfold.augment.frame import Frame
from viewfold.augment.grayscale import Grayscale, GrayscaleConfig
from viewfold.augment.solarize import Solarize, SolarizeConfig
from viewfold.augment.stain import Stain, StainConfig
from viewfold.augment.transform import Photometric

HALF = 0.5
FAMILIES: dict[str, Photometric] = {
    "colour": Colour(ColourConfig(probability=HALF)),
    "colour-hue": Colour(ColourConfig(log_saturation=0.4, hue_turns=0.3, probability=HALF)),
    "colour-yiq": Colour(ColourConfig(log_saturation=0.4, hue_turns=0.3, probability=HALF, mode="yiq")),
    "field": FieldColour(FieldColourConfig(probability=HALF)),
    "field-yiq": FieldColour(FieldColourConfig(probability=HALF, global_share=0.5, mode="yiq")),
    "grayscale": Grayscale(GrayscaleConfig(probability=HALF)),
    "blur": Blur(BlurConfig(sigma_ratio=(0.02, 0.03), probability=HALF)),
    "solarize": Solarize(SolarizeConfig(probability=HALF)),
    "stain": Stain(StainConfig(scale=0.3, shift=0.2, probability=HALF)),
}
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def keys_of(num: int) -> Tensor:
    return view_keys(0, [0] * num, [f"s/{i}" for i in range(num)], 0)


def noise(num: int, height: int, width: int) -> Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(0))


def changed_alone(family: Photometric, images: Tensor, draws: Tensor) -> Tensor:
    return torch.cat([family.apply(images[i : i + 1], draws[i : i + 1]) for i in range(len(images))])


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@every_family
def test_rows_with_draws_of_zeros_keep_their_bits_and_the_others_change(family: Photometric) -> None:
    images, draws = noise(9, 17, 22), family.draw(keys_of(9))
    untouched = (draws == 0).all(1)
    assert 0 < untouched.sum() < 9
    changed = family.apply(images, draws)
    assert torch.equal(changed[untouched], images[untouched])
    assert (changed != images).any(3).any(2).any(1).equal(~untouched)
    assert torch.equal(family.apply(images, torch.zeros_like(draws)), images)


@every_family
@pytest.mark.parametrize("size", [(17, 22), (64, 64)])
@pytest.mark.parametrize("rows", [range(17), [5, 0, 7, 3], [6], range(12, -1, -1)], ids=["all", "4", "1", "reversed"])
def test_a_row_does_not_depend_on_its_batch(family: Photometric, size: tuple[int, int], rows: list[int]) -> None:
    images, keys = noise(17, *size), keys_of(17)
    draws = family.draw(keys)
    assert torch.equal(family.draw(keys[rows]), draws[rows])
    assert torch.equal(family.apply(images[rows], draws[rows]), changed_alone(family, images, draws)[rows])


@every_family
@pytest.mark.parametrize("size", [(31, 33), (128, 128)])
@pytest.mark.usefixtures("two_threads")
def test_two_threads_give_the_bits_of_one(family: Photometric, size: tuple[int, int]) -> None:
    images, draws = noise(7, *size), family.draw(keys_of(7))
    changed, alone = family.apply(images, draws), changed_alone(family, images, draws)
    torch.set_num_threads(1)
    assert torch.equal(family.apply(images, draws), changed)
    assert torch.equal(alone, changed)


@every_family
def test_images_are_read_and_never_written(family: Photometric) -> None:
    images, draws = noise(6, 12, 13), family.draw(keys_of(6))
    images_before, draws_before = images.clone(), draws.clone()
    family.apply(images, draws)
    assert torch.equal(images, images_before)
    assert torch.equal(draws, draws_before)


@every_family
def test_views_are_float32_between_zero_and_one(family: Photometric) -> None:
    images, draws = noise(64, 12, 12), family.draw(keys_of(64))
    images[::2] = images[::2].round()
    views = family.apply(images, draws)
    assert views.dtype == draws.dtype == torch.float32
    assert views.min() >= 0
    assert views.max() <= 1


@every_family
def test_the_configured_share_of_views_is_changed(family: Photometric) -> None:
    chosen = (family.draw(keys_of(2000)) != 0).any(1).double()
    assert chosen.mean() == pytest.approx(HALF, abs=4 * math.sqrt(HALF * HALF / 2000))


@every_family
def test_columns_have_a_name_each(family: Photometric) -> None:
    draws = family.draw(keys_of(3))
    described = family.describe(draws, Frame.coarse(32, 24))
    assert draws.shape == (3, len(family.names))
    assert described.shape == (3, len(family.labels))
    assert described.dtype == torch.float32
    assert len({*family.names}) == len(family.names)


def compiled_difference(name: str) -> float:
    family, images = FAMILIES[name], noise(4, 24, 20)
    draws = family.draw(keys_of(4))
    compiled = torch.compile(family.apply, fullgraph=True, dynamic=False)
    return float((compiled(images, draws) - family.apply(images, draws)).abs().max())


@pytest.mark.slow  # the compiler takes some seconds a family
@pytest.mark.parametrize("name", FAMILIES)
def test_a_compiled_call_gives_the_same_views(name: str, plain_process: ProcessPoolExecutor) -> None:
    assert plain_process.submit(compiled_difference, name).result() <= 1e-5
