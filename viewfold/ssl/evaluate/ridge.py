"""A linear predictor for an encoder that was trained without one: fitted to frozen features in closed form.

With it the retrieval of views compares any encoders, those of invariant methods and untrained ones among them.
"""

import torch
from torch import Tensor, nn

from viewfold.ssl.equivariant import EquivariantHead, HeadConfig
from viewfold.ssl.evaluate.pairs import Pairs
from viewfold.ssl.predictors import LinearPredictorConfig

_BLOCK = 4096  # pairs at a time: each is a row of dim * k numbers


def fitted_predictor(train: Pairs, *, part: str, transformation: str, l2: float = 1e-2) -> EquivariantHead:
    """The W, linear in z, with the least mean |y - W(z) x|^2 + `l2` |W|^2 over the pairs of `train`.

    x and y are the features of the two views, standardised by the mean and deviation of all of `train`; that is the
    head's embedding. z is `train.target`, the transformation named `transformation`. One solve of a (dim k)^2 system.
    """
    deviation, mean = torch.std_mean(train.features.double(), dim=0, correction=0)
    scale = 1 / deviation.clamp(min=1e-6)
    rows = (train.features.double() - mean) * scale
    dim, k = rows.shape[1], train.target.shape[1]
    gram = l2 * len(train.first) * torch.eye(dim * k, dtype=torch.float64)
    products = torch.zeros(dim * k, dim, dtype=torch.float64)
    for block in torch.split(torch.arange(len(train.first)), _BLOCK):
        x, y, z = rows[train.first[block]], rows[train.second[block]], train.target[block].double()
        outer = (x[:, :, None] * z[:, None, :]).flatten(1)
        gram += outer.T @ outer
        products += outer.T @ y
    weight = torch.linalg.solve(gram, products).T  # [dim, dim * k]
    config = HeadConfig(
        part=part,
        part_dim=dim,
        transformation=transformation,
        num_params=k,
        widths=(dim,),
        predictor=LinearPredictorConfig(),
    )
    head = EquivariantHead(config)
    head.embed = _standardiser(mean, scale)
    head.predict.load_state_dict({"weight": weight.view(dim, dim, k).float()})
    return head.eval()


def _standardiser(mean: Tensor, scale: Tensor) -> nn.Sequential:
    layer = nn.Linear(len(mean), len(mean))
    layer.load_state_dict({"weight": torch.diag(scale).float(), "bias": (-mean * scale).float()})
    return nn.Sequential(layer)
