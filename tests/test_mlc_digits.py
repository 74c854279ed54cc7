"""What MLC is for, on real images: handwritten digits, 8 x 8 pixels, find their ten clusters without a label."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from viewfold.ssl.evaluate import clustering_scores
from viewfold.ssl.evaluate.spectral import spectral_clusters
from viewfold.ssl.losses import coding_rate
from viewfold.ssl.methods import MLCConfig, TCRConfig
from viewfold.ssl.methods.mlc import draw_columns, membership, mlc_terms
from viewfold.ssl.methods.tcr import tcr_terms
from viewfold.ssl.subspace_head import SubspaceHead, SubspaceHeadConfig

BATCH = 599  # a third of the digits
TCR = TCRConfig(form="unit_average")
MLC = MLCConfig(eta=0.12, eta_batch=BATCH, columns=64)


def digits() -> tuple[Tensor, NDArray[np.int64]]:
    """Images `[digit, 1, 8, 8]` in 0..1, and what they show."""
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 16, data.target


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turned by up to 0.25 rad, scaled by up to an eighth, shifted by up to 0.7 pixels, flattened to 64 numbers."""
    turn, scale, x, y = torch.rand(4, len(images), generator=generator) * 2 - 1
    size = 1 + scale / 8
    cos, sin = size * (turn / 4).cos(), size * (turn / 4).sin()
    matrices = torch.stack([cos, -sin, 0.175 * x, sin, cos, 0.175 * y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).flatten(1)


def batches(images: Tensor, epochs: int, generator: torch.Generator) -> Any:
    """Two views `[2, BATCH, 64]` of the digits of each step."""
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            yield torch.stack([moved(images[rows], generator) for _ in range(2)])


def step(optimizer: torch.optim.Optimizer, terms: dict[str, Tensor]) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(torch.stack([*terms.values()]).sum())
    optimizer.step()


def read_out(head: SubspaceHead, images: Tensor, label: NDArray[np.int64]) -> tuple[float, float]:
    """Accuracy of the clusters of all digits, and R of their features."""
    with torch.no_grad():
        z, c = head.eval()(images.flatten(1))
        gamma = membership(c[None], MLC)
        rate = coding_rate(z, eps_sq=MLC.eps_sq).nats.item()
    head.train()
    return clustering_scores(spectral_clusters(gamma, 10, seed=0), label).acc, rate


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_digits_fall_into_their_ten_clusters(seed: int) -> None:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    images, label = digits()
    head = SubspaceHead(SubspaceHeadConfig(part="all", part_dim=64, hidden_widths=(512, 512), dim=32))
    feature = [*head.trunk.parameters(), *head.feature.parameters()]

    adam = torch.optim.Adam(feature, lr=1e-3)
    for x in batches(images, 60, generator):
        step(adam, tcr_terms(head(x)[0], TCR)[0])
    head.copy_feature_head()
    _, rate_before = read_out(head, images, label)

    assert head.cluster is not None
    groups: list[dict[str, Any]] = [
        {"params": feature, "lr": 3e-3, "weight_decay": 1e-4},
        {"params": [*head.cluster.parameters()], "lr": 2e-3, "weight_decay": 5e-3},
    ]
    sgd = torch.optim.SGD(groups, momentum=0.9)
    for number, x in enumerate(batches(images, 30, generator)):
        z, c = head(x)
        step(sgd, mlc_terms(z, c, MLC, columns=draw_columns(MLC.columns, BATCH, step=number))[0])
    accuracy, rate = read_out(head, images, label)

    assert accuracy >= 0.87
    assert rate >= 0.99 * rate_before
