"""Precision of retrieval: hand-counted neighbours, chance, and what may not be found."""

import pytest
import torch

from viewfold.errors import InvalidInput
from viewfold.ssl.evaluate import Split, retrieval_precision

ANGLES = torch.tensor([0.0, 0.1, 0.25, 1.5, 1.6, 1.75, 3.0])
GALLERY = Split.of(
    torch.stack([ANGLES.cos(), ANGLES.sin()], dim=1), torch.tensor([0, 0, 1, 1, 1, 0, -1]), torch.arange(7)
)


def queries(angles: list[float], label: list[int], group: list[int]) -> Split:
    rows = torch.tensor(angles)
    return Split.of(torch.stack([rows.cos(), rows.sin()], dim=1), torch.tensor(label), torch.tensor(group))


def test_counts_the_neighbours_of_the_querys_class() -> None:
    measure = retrieval_precision(GALLERY, queries([0.05, 1.62], [0, 1], [10, 11]), k=3)
    assert measure.name == "precision3"
    assert measure.value == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert measure.chance == pytest.approx(0.5)  # three of the six labelled rows are of either class


def test_unlabelled_rows_neither_ask_nor_are_found() -> None:
    measure = retrieval_precision(GALLERY, queries([3.0, 3.0], [0, -1], [10, 11]), k=1)
    assert (measure.value, measure.n) == (1.0, 1)


def test_the_querys_own_group_is_not_found() -> None:
    again = retrieval_precision(GALLERY, GALLERY, k=1)
    assert again.value == 1.0
    assert retrieval_precision(GALLERY, GALLERY, k=1, exclude_group=True).value == pytest.approx(4 / 6)


def test_more_neighbours_than_images_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"k must lie in 1\.\.5"):
        retrieval_precision(GALLERY, GALLERY, k=6, exclude_group=True)
