"""The peer's side of the suite `endtoend`: SimCLR as lightly's documentation writes it, in lightly's own parts.

Runs in the peers' Python as `python -m benchmarks.endtoend_peer SETTINGS`, which has no viewfold. Three things are
kinder to the peer than its documentation: weights and images lie channels last, Adam is fused, and one shuffled pass
follows the other without a pause.
"""

import json
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.endtoend_turns import Turns

ENDLESS = 10**9


def backbone(name: str) -> nn.Module:
    """`resnet-small` as viewfold has it, or a model of timm; both without classifier."""
    import timm
    from timm.models.resnet import BasicBlock, ResNet

    if name != "resnet-small":
        model: nn.Module = timm.create_model(name, num_classes=0)
        return model
    widths = {"channels": (32, 64, 128, 256), "stem_type": "deep", "stem_width": 16, "num_classes": 0}
    small: nn.Module = ResNet(BasicBlock, (1, 1, 1, 1), **widths)  # type: ignore[arg-type]
    small.conv1 = nn.Conv2d(3, 32, kernel_size=7, stride=2, padding=3, bias=False)
    return small


def loader(settings: dict[str, Any]) -> "DataLoader[Any]":
    """Two views of each file, cropped, mirrored, jittered, greyed, blurred and normalised in the loader processes."""
    from lightly.data import LightlyDataset
    from lightly.transforms import SimCLRTransform

    size = settings["size"]
    low, high = settings["sigma_ratio"]
    views = SimCLRTransform(input_size=size, sigmas=(low * size, high * size))
    dataset = LightlyDataset(settings["files"], transform=views)
    return DataLoader(
        dataset,
        batch_size=settings["batch"],
        sampler=RandomSampler(dataset, num_samples=ENDLESS),
        num_workers=settings["loaders"],
        drop_last=True,
    )


def main() -> None:
    """Train for as long as turns are asked for."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    settings = json.loads(sys.argv[1])
    os.sched_setaffinity(0, settings["cores"])
    torch.set_num_threads(settings["threads"])
    encoder = backbone(settings["backbone"])
    head = SimCLRProjectionHead(encoder.num_features, *settings["widths"])
    model = nn.Sequential(encoder, head).to(memory_format=torch.channels_last).train()
    loss_of = NTXentLoss(temperature=settings["tau"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6, fused=True)
    turns = Turns(backbone_weights=sum(p.numel() for p in encoder.parameters()))
    for views, *_ in loader(settings):
        first, second = (model(view.to(memory_format=torch.channels_last)) for view in views)
        loss: Tensor = loss_of(first, second)
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        turns.step_taken()


if __name__ == "__main__":
    main()
