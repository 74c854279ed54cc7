"""Backbones by name; what sets SIE's own ResNet-18 apart is shown layer by layer."""

import math
from itertools import pairwise

import pytest
import torch
from ranks import run_ranks
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.errors import InvalidInput
from viewfold.ssl.backbones import BACKBONES, build_backbone
from viewfold.ssl.batchnorm import GatheredBatchNorm, with_gathered_batchnorm
from viewfold.ssl.dist import rank
from viewfold.ssl.resnet_sie import WIDTHS, BasicBlock, SIEResNet18


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("in_channels", [1, 3])
def test_one_vector_per_image(name: str, in_channels: int) -> None:
    features = build_backbone(name, in_channels=in_channels)(torch.rand(2, in_channels, 64, 64))
    assert features.shape == (2, 256 if name == "resnet-small" else 512)


def test_names_of_timm_work() -> None:
    assert build_backbone("test_resnet", in_channels=1)(torch.rand(2, 1, 32, 32)).ndim == 2


@pytest.mark.parametrize(("name", "near"), [("resnet-smal", "resnet-small"), ("resnet18x", "resnet18")])
def test_unknown_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InvalidInput, match=f"unknown backbone '{name}'.*did you mean '{near}'"):
        build_backbone(name)


@pytest.fixture(scope="module")
def sie_resnet() -> SIEResNet18:
    torch.manual_seed(0)
    return SIEResNet18(3)


def _blocks(model: SIEResNet18) -> list[BasicBlock]:
    return [module for module in model.modules() if isinstance(module, BasicBlock)]


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def test_sie_resnet_has_the_published_size_and_initialisation(sie_resnet: SIEResNet18) -> None:
    assert sum(p.numel() for p in sie_resnet.parameters()) == 11_180_736
    first = _convolutions(sie_resnet.stem)[0].weight
    assert first.std().item() == pytest.approx(math.sqrt(2 / 3136), rel=0.03)
    for block in _blocks(sie_resnet):
        norms = [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)]
        gains = [norm.weight.detach() for norm in norms]
        assert [torch.unique(gain).tolist() for gain in gains] == [[1.0], [0.0], [1.0]][: len(gains)]
        assert not any(norm.bias.detach().any() for norm in norms)


def test_sie_resnet_strides_where_the_paper_does(sie_resnet: SIEResNet18) -> None:
    for number, block in enumerate(_blocks(sie_resnet)):
        stride = 2 if number in (2, 4, 6) else 1
        strides = [layer.stride for layer in _convolutions(block.branch)]
        assert strides == [(1, 1), (stride, stride)]
        shortcut = [(layer.kernel_size, layer.stride) for layer in _convolutions(block.shortcut)]
        assert shortcut == ([((1, 1), (stride, stride))] if number % 2 == 0 else [])


def test_sie_resnet_has_the_published_resolutions_at_256_pixels(sie_resnet: SIEResNet18) -> None:
    shapes: list[tuple[int, ...]] = []
    watched = (sie_resnet.pool, *sie_resnet.stages)
    hooks = [layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:]))) for layer in watched]
    with torch.no_grad():
        features = sie_resnet(torch.randn(1, 3, 256, 256))
    for hook in hooks:
        hook.remove()
    assert shapes == [(64, 64, 64), (64, 64, 64), (128, 32, 32), (256, 16, 16), (512, 8, 8)]
    assert features.shape == (1, 512)
    assert features.min() >= 0


def _taps(layers: nn.Module, size: int, at: tuple[int, int]) -> Tensor:
    """What one bright pixel of the first channel leaves in the corner of the first output channel."""
    image = torch.zeros(1, _convolutions(layers)[0].in_channels, size, size)
    image[0, 0, at[0], at[1]] = 1
    response: Tensor = layers(image)[0, 0, 0, 0].detach()
    return response


def test_sie_resnet_pads_strided_layers_on_the_right_and_at_the_bottom(sie_resnet: SIEResNet18) -> None:
    strided = _blocks(sie_resnet)[2].branch[3]
    weight = _convolutions(strided)[0].weight.detach()[0, 0]
    for at in ((0, 0), (2, 1)):
        assert torch.equal(_taps(strided, 8, at), weight[at])  # evenly padded, the corner would see at + 1
    assert strided(torch.zeros(1, 128, 8, 8)).shape[2:] == (4, 4)
    stem = sie_resnet.stem[:2]
    weight = _convolutions(stem)[0].weight.detach()[0, 0]
    for at in ((0, 0), (4, 1)):
        assert torch.equal(_taps(stem, 16, at), weight[at[0] + 2, at[1] + 2])
    assert stem(torch.zeros(1, 3, 16, 16)).shape[2:] == (8, 8)


def test_sie_resnet_pools_the_pixels_themselves(sie_resnet: SIEResNet18) -> None:
    assert torch.equal(sie_resnet.pool(torch.full((1, 1, 8, 8), -9999.0)), torch.full((1, 1, 4, 4), -9999.0))
    ramp = torch.arange(64.0).view(1, 1, 8, 8)
    corners = [ramp[0, 0, min(2 * i + 2, 7), min(2 * j + 2, 7)] for i in range(4) for j in range(4)]
    assert sie_resnet.pool(ramp).flatten().tolist() == corners


def test_sie_resnet_is_the_network_written_out() -> None:
    torch.manual_seed(0)
    model = SIEResNet18(2).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.rand_like(parameter) * parameter.std().nan_to_num(1)  # no gain is left at 0
    weights = iter(list(model.parameters()))

    def conv(x: Tensor, padding: tuple[int, ...], stride: int = 1) -> Tensor:
        """And BatchNorm by its initial statistics."""
        y = F.conv2d(F.pad(x, padding), next(weights), stride=stride) / math.sqrt(1 + 1e-5)
        return y * next(weights)[:, None, None] + next(weights)[:, None, None]

    x = images = torch.randn(2, 2, 64, 32, dtype=torch.float64)
    x = F.max_pool2d(F.pad(conv(x, (2, 3, 2, 3), 2).relu(), (0, 1, 0, 1)), 3, 2)  # no pixel is below the 0 of this pad
    for before, after in pairwise((WIDTHS[0], *WIDTHS)):
        stride = 1 if after == WIDTHS[0] else 2
        assert x.shape[1] == before
        y = conv(conv(x, (1, 1, 1, 1)).relu(), (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1), stride)
        x = (y + conv(x, (0, 0, 0, 0), stride)).relu()
        x = (conv(conv(x, (1, 1, 1, 1)).relu(), (1, 1, 1, 1)) + x).relu()
    torch.testing.assert_close(model(images), x.mean(dim=(2, 3)))
    with pytest.raises(StopIteration):
        next(weights)


def test_sie_resnet_refuses_sizes_whose_branches_would_not_meet(sie_resnet: SIEResNet18) -> None:
    with pytest.raises(
        InvalidInput, match=r"multiples of 32 pixels, got 64 x 72; set encoder\.preprocessing\.image_size"
    ):
        sie_resnet(torch.zeros(1, 3, 64, 72))


def _gathered(images: Tensor) -> tuple[Tensor, int]:
    torch.manual_seed(0)
    model = with_gathered_batchnorm(SIEResNet18(3))
    num_norms = sum(isinstance(module, GatheredBatchNorm) for module in model.modules())
    return model(images.chunk(2)[rank()]).detach(), num_norms


@pytest.mark.slow
def test_sie_resnet_normalises_over_the_rows_of_all_ranks() -> None:
    torch.manual_seed(0)
    whole = SIEResNet18(3)
    images = torch.rand(4, 3, 32, 32)
    results = run_ranks(_gathered, images)
    assert [num_norms for _, num_norms in results] == [21, 21]
    torch.testing.assert_close(torch.cat([rows for rows, _ in results]), whole(images).detach(), atol=1e-4, rtol=1e-4)
