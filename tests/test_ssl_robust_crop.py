"""Robust crops move with the picture: exactly on a torus, as often as the law says at real borders."""

import math

import pytest
import torch
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.robust_crop import all_shifts_chance, robust_crop, same_crop_chance, select_crop

SHIFTS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if (down, right) != (0, 0)]


def noise(num: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num, 3, height, width), generator=generator, dtype=torch.uint8)


def pictures(height: int, width: int) -> dict[str, Tensor]:
    """One picture of each kind, `[3, height, width]`; all but the first are full of equal patches."""
    flat = torch.full((3, height, width), 90, dtype=torch.uint8)
    mark, stripes, hues = flat.clone(), flat.clone(), flat.clone()
    mark[:, height // 3, width // 2] = 200
    stripes[:, :, ::2] = 160
    stripes[0, 2, 3] = 255
    hues[2, height // 2] = 91  # 29 steps of luma
    return {"noise": noise(1, height, width)[0], "flat": flat, "mark": mark, "stripes": stripes, "hues": hues}


def test_the_law_has_the_tabulated_values() -> None:
    table = {248: (0.800, 0.653, 0.405), 240: (0.889, 0.795, 0.623), 224: (0.941, 0.887, 0.785)} | {
        192: (0.970, 0.941, 0.884),
        160: (0.980, 0.960, 0.921),
    }
    for crop, row in table.items():
        whole = (256, 256)
        law = same_crop_chance(whole, crop, (0, 1)), same_crop_chance(whole, crop, (-1, 1))
        assert (*law, all_shifts_chance(whole, crop)) == pytest.approx(row, abs=6e-4)


def test_the_law_counts_the_crops_that_all_windows_hold() -> None:
    size, crop = (20, 27), 16

    def held(down: int, right: int) -> set[tuple[int, int]]:
        return {(down + y, right + x) for y in range(size[0] - crop + 1) for x in range(size[1] - crop + 1)}

    for shift in [(0, 0), (1, 0), (-1, 1), (3, -2), (5, 0)]:
        both = held(0, 0) & held(*shift)
        assert same_crop_chance(size, crop, shift) == pytest.approx(len(both) / len(held(0, 0) | held(*shift)))
    windows = [held(*shift) for shift in [(0, 0), *SHIFTS]]
    every, some = set.intersection(*windows), set.union(*windows)
    assert all_shifts_chance(size, crop) == pytest.approx(len(every) / len(some))


@pytest.mark.parametrize("kind", list(pictures(8, 8)))
def test_no_cyclic_shift_changes_a_cyclic_crop(kind: str) -> None:
    height, width = 18, 22
    picture = pictures(height, width)[kind]
    shifted = [picture.roll((down, right), (1, 2)) for down in range(height) for right in range(width)]
    crops = robust_crop(torch.stack(shifted), 13, cyclic=True)
    assert torch.equal(crops, crops[:1].expand_as(crops))


@pytest.mark.parametrize("kind", list(pictures(8, 8)))
def test_the_winner_wins_in_every_window_that_holds_it(kind: str) -> None:
    picture, crop, window = pictures(24, 26)[kind][None], 13, 18
    top, left = select_crop(picture, crop)[0].tolist()
    winner = picture[:, :, top : top + crop, left : left + crop]
    assert torch.equal(robust_crop(picture, crop), winner)
    windows = [
        picture[:, :, y : y + window, x : x + window]
        for y in range(24 - window + 1)
        for x in range(26 - window + 1)
        if y <= top and top + crop <= y + window and x <= left and left + crop <= x + window
    ]
    assert windows
    crops = robust_crop(torch.cat(windows), crop)
    assert torch.equal(crops, winner.expand_as(crops))


@pytest.mark.parametrize("flat_middle", [False, True])
def test_real_shifts_keep_the_crop_as_often_as_the_law_says(flat_middle: bool) -> None:
    num, size, crop = 500, 40, 32
    canvases = noise(num, size + 2, size + 2)
    if flat_middle:  # no patch in the middle of a crop shows any of the noise at the borders
        canvases[:, :, 6:-6, 6:-6] = canvases[:, :, :1, :1]
    still = select_crop(canvases[:, :, 1:-1, 1:-1], crop)
    same = []
    for down, right in SHIFTS:
        moved = select_crop(canvases[:, :, 1 + down : 1 + down + size, 1 + right : 1 + right + size], crop)
        same.append((moved + torch.tensor([down, right]) == still).all(1))
    for number, shift in enumerate(SHIFTS):
        law = same_crop_chance((size, size), crop, shift)
        # Eight looks at one law: 3 standard errors each would fail one seed in fifty.
        assert float(same[number].double().mean()) == pytest.approx(law, abs=4 * math.sqrt(law * (1 - law) / num))
    for some in ([s for s in SHIFTS if 0 in s], [s for s in SHIFTS if 0 not in s]):
        law = same_crop_chance((size, size), crop, some[0])
        share = float(torch.stack([same[SHIFTS.index(s)] for s in some]).double().mean())
        assert share == pytest.approx(law, abs=3 * math.sqrt(law * (1 - law) / num))
    law = all_shifts_chance((size, size), crop)
    share = float(torch.stack(same).all(0).double().mean())
    assert share == pytest.approx(law, abs=3 * math.sqrt(law * (1 - law) / num))


def test_a_crop_depends_on_its_own_image_alone() -> None:
    images = noise(5, 20, 24)
    together = select_crop(images, 12)
    assert torch.equal(together, torch.cat([select_crop(image[None], 12) for image in images]))
    assert len({tuple(place) for place in together.tolist()}) > 1
    assert select_crop(images[:0], 12).shape == (0, 2)


def test_a_crop_of_the_whole_image_is_the_image() -> None:
    images = noise(2, 16, 16)
    assert torch.equal(robust_crop(images, 16), images)


@pytest.mark.parametrize("crop", [7, 21])
def test_a_crop_that_does_not_fit_is_refused(crop: int) -> None:
    with pytest.raises(InvalidInput, match=rf"a robust crop of {crop} px does not fit .* choose 8\.\.20"):
        select_crop(noise(1, 20, 24), crop)
