"""Hashes made beside the encoder."""

import pytest
from served import picture

from viewfold.errors import InvalidInput
from viewfold.retrieval import image_hashes
from viewfold.retrieval.service.hashing import hashing


@pytest.mark.parametrize("count", [0, 1, 2, 33])
def test_each_image_has_its_own_hashes_in_the_order_of_the_images(count: int) -> None:
    images = [picture("red", number) for number in range(count)]
    assert hashing(images)() == [image_hashes(data) for data in images]


def test_an_image_that_cannot_be_hashed_says_why_and_leaves_the_others_alone() -> None:
    whole, cut = picture("red", 1), picture("red", 2)[:200]
    first, second, third = hashing([whole, cut, whole])()
    assert first == third == image_hashes(whole)
    assert isinstance(second, InvalidInput)
