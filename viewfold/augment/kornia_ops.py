"""What Kornia carries out for our families; kornia is imported when an operation is called, not before."""

from jaxtyping import Float
from torch import Tensor

from viewfold.errors import MissingDependency


def solarize(images: Float[Tensor, "batch 3 height width"], threshold: float) -> Float[Tensor, "batch 3 height width"]:
    """Values from `threshold` on become one minus themselves.

    Raises:
        MissingDependency: kornia is not installed.
    """
    try:
        from kornia.enhance import solarize as kornia_solarize
    except ModuleNotFoundError as error:
        raise MissingDependency("solarizing needs kornia: pip install 'viewfold[train]'") from error
    solarized: Tensor = kornia_solarize(images, float(threshold))
    return solarized
