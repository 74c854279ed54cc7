import pytest
import torch

from viewfold.errors import InvalidInput
from viewfold.ssl.backbones import BACKBONES, build_backbone


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_one_vector_per_image(name: str, in_channels: int) -> None:
    features = build_backbone(name, in_channels=in_channels)(torch.rand(2, in_channels, 64, 64))
    assert features.shape == (2, {"resnet-small": 256, "resnet-medium": 512}[name])


def test_names_of_timm_work() -> None:
    assert build_backbone("test_resnet", in_channels=1)(torch.rand(2, 1, 32, 32)).ndim == 2


@pytest.mark.parametrize(("name", "near"), [("resnet-smal", "resnet-small"), ("resnet18x", "resnet18")])
def test_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InvalidInput, match=f"unknown backbone '{name}'.*did you mean '{near}'"):
        build_backbone(name)
