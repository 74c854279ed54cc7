"""Reading the transformation between two views off the features of both, with an MLP that is trained along."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from viewfold.ssl.precision import in_float32


def regressor(part_dim: int, width: int, num_params: int) -> nn.Sequential:
    """An MLP of two hidden layers of `width`, with ReLU, from `joined_pair` to the transformation's numbers."""
    return nn.Sequential(
        nn.Linear(2 * part_dim, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
        nn.Linear(width, num_params),
    )


def joined_pair(features: Float[Tensor, "2 batch part_dim"]) -> Float[Tensor, "batch both"]:
    """[r1 ; r2]: the first view's features, then the second's."""
    return features.transpose(0, 1).flatten(1)


@in_float32
def regression_loss(
    prediction: Float[Tensor, "batch k"], transformation: Float[Tensor, "batch k"]
) -> Float[Tensor, ""]:
    """Mean squared error of a transformation's numbers, 0 or more; over this rank's rows."""
    return F.mse_loss(prediction, transformation)
