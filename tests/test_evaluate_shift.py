"""The one-pixel shift against pictures whose windows are known, and with the crop that moves along."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Measure, shift_measures
from viewfold.ssl.robust_crop import robust_crop


def noise(num: int, size: int) -> Tensor:
    return torch.randint(0, 256, (num, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def corner(windows: Tensor) -> Tensor:
    """A feature that is the brightness of one pixel and one that is constant."""
    value = windows[:, 0, 0, 0].float()
    return torch.stack([value, torch.full_like(value, 128)], dim=1)


def bright(features: Tensor) -> Tensor:
    return (features[:, 0] > features[:, 1]).long()


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.name.removeprefix("shift/"): measure for measure in measures}


def test_stripes_and_boards_change_as_often_as_their_pattern_says() -> None:
    row, column = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    patterns = torch.stack([column % 2, (row + column) % 2, 0 * row, (column >= 2).long()]) * 255
    canvases = patterns[:, None].expand(-1, 3, -1, -1).to(torch.uint8)
    found = by_name(shift_measures(corner, canvases, 8, predict=bright))
    # Corners are at column 2 when still. Stripes: 6 of 8 shifts move sideways; board: the 4 along an axis change the
    # colour; flat: none; step: the 3 to the left uncover it.
    assert found["consistency"].value == pytest.approx((2 + 4 + 8 + 5) / 32)
    assert found["adversarial"].value == pytest.approx(1 / 4)
    angle = math.atan2(255, 128)
    assert found["drift"].value == pytest.approx((1 - math.cos(angle)) * (6 + 4 + 0 + 3) / 32, abs=1e-6)
    # Still windows: 0, 0, 0, 255.
    assert found["consistency"].chance == pytest.approx((9 + 1) / 16)
    assert found["adversarial"].chance == pytest.approx(0.75**9 + 0.25**9)
    assert found["drift"].chance == pytest.approx((1 - math.cos(angle)) / 2, abs=1e-6)
    assert {measure.n for measure in found.values()} == {4}
    assert found["consistency"].detail == {"window": 8, "num_shifts": 8}


def test_without_classes_only_drift_is_measured() -> None:
    measures = shift_measures(lambda x: torch.ones(len(x), 2), noise(3, 12), 9, groups=[0, 0, 1])
    assert [(m.name, m.value, m.low, m.high) for m in measures] == [("shift/drift", 0.0, 0.0, 0.0)]


def test_a_robust_crop_makes_the_most_fragile_classifier_consistent() -> None:
    """The parity of a window's sum changes with half of all shifts, whatever they are; that of one crop does not."""
    num, window, crop = 300, 36, 28

    def parity(images: Tensor) -> Tensor:
        odd = images.long().sum((1, 2, 3)) % 2
        return torch.stack([odd, 1 - odd], dim=1).float()

    canvases = noise(num, window + 2)
    plain = by_name(shift_measures(parity, canvases, window, predict=lambda f: f.argmax(1)))
    robust = by_name(
        shift_measures(parity, canvases, window, predict=lambda f: f.argmax(1), crop=partial(robust_crop, crop=crop))
    )
    assert plain["consistency"].value == pytest.approx(0.5, abs=0.05)
    detail = robust["consistency"].detail
    for kind in ("axis", "diagonal", "all"):
        law = detail[f"same_crop_{kind}_law"]
        assert detail[f"same_crop_{kind}"] == pytest.approx(law, abs=3 * math.sqrt(law * (1 - law) / num))
    same = (detail["same_crop_axis"] + detail["same_crop_diagonal"]) / 2
    # Where another crop is chosen, its parity is right by chance.
    assert robust["consistency"].value == pytest.approx(same + (1 - same) / 2, abs=0.04)
    assert robust["adversarial"].value >= detail["same_crop_all"] > plain["adversarial"].value
    assert robust["drift"].value == pytest.approx(1 - robust["consistency"].value)


def test_a_canvas_without_a_pixel_to_spare_is_refused() -> None:
    with pytest.raises(InvalidInput, match="decode the images at 12 px or more"):
        shift_measures(corner, noise(2, 11), 10)
