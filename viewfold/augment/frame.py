"""The coordinates in which points of an image are told, and the one sampling that all geometric families share."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from viewfold.augment.kept import kept
from viewfold.errors import InvalidInput

_PIXELS_PER_NODE = 4


@dataclass(frozen=True)
class Frame:
    """A view's pixels, and the lattice of nodes at which a map between points is evaluated.

    Coordinates are (x, y) from the centre of the image, to the right and down, in units of its longer side; so a
    rotation is a rotation, and the same numbers hold at any resolution. The first and last node of an axis are the
    centres of the first and last pixel; between nodes a map is interpolated linearly.
    """

    height: int
    width: int
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 2:
            raise InvalidInput(f"views need images of at least 2 x 2 pixels, got {self.height} x {self.width}")

    @classmethod
    def coarse(cls, height: int, width: int) -> "Frame":
        """A node every four pixels: a moderate field is off by 0.02 pixels on average."""
        return cls(height, width, max(2, height // _PIXELS_PER_NODE + 1), max(2, width // _PIXELS_PER_NODE + 1))

    @classmethod
    def corners(cls, height: int, width: int) -> "Frame":
        """Four nodes, from which affine maps are interpolated exactly."""
        return cls(height, width, 2, 2)

    @classmethod
    def pixels(cls, height: int, width: int) -> "Frame":
        """A node at each pixel."""
        return cls(height, width, height, width)

    @property
    def side(self) -> int:
        """Pixels of the longer side."""
        return max(self.height, self.width)

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height in longer sides."""
        return self.width / self.side, self.height / self.side

    def down(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Float[Tensor, " rows"]:
        """Distance of each row of nodes from the upper border, in longer sides."""
        return _centres(self.height, self.rows, device, dtype) / self.side

    def across(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Float[Tensor, " columns"]:
        """Distance of each column of nodes from the left border, in longer sides."""
        return _centres(self.width, self.columns, device, dtype) / self.side

    def axes(
        self, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> tuple[Float[Tensor, " columns"], Float[Tensor, " rows"]]:
        """The nodes' x and their y."""
        width, height = self.extent
        return self.across(device, dtype) - width / 2, self.down(device, dtype) - height / 2

    def points(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Float[Tensor, "2 rows columns"]:
        """The nodes' coordinates."""
        x, y = self.axes(device, dtype)
        return torch.stack([x.expand(self.rows, -1), y[:, None].expand(-1, self.columns)])


def resample(
    images: Float[Tensor, "batch channel height width"],
    places: Float[Tensor, "batch 2 rows columns"],
    frame: Frame,
    *,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    padding: Literal["reflection", "border", "zeros"] = "reflection",
    align_corners: bool = False,
) -> Float[Tensor, "batch channel height width"]:
    """Read each image at the places that belong to the frame's nodes; the data type of the images is kept.

    Reflected borders by default: a black frame would tell a network what the transformation was. Places are float32,
    whatever the images are: in bfloat16 they would be half a pixel off at 224.
    """
    size, scale, nodes, x, y = _sampling(frame, align_corners, places.device)
    # Displacements are interpolated, not places: their rounding errors are small where little moves.
    moved = (places - nodes) * scale
    if (frame.rows, frame.columns) != size:
        moved = F.interpolate(moved, size=size, mode="bilinear", align_corners=True)
    moved[:, 0].add_(x)
    moved[:, 1].add_(y)
    sampled = F.grid_sample(
        images.float(), moved.permute(0, 2, 3, 1), mode=mode, padding_mode=padding, align_corners=align_corners
    )
    return sampled.to(images.dtype)


@kept
def _sampling(
    frame: Frame, align_corners: bool, device: torch.device
) -> tuple[tuple[int, int], Tensor, Tensor, Tensor, Tensor]:
    """Size, the factors to the coordinates of `grid_sample`, the nodes, and the pixels' x and y in its coordinates."""
    size = (frame.height, frame.width)
    factors = [2 * frame.side / (frame.width - align_corners), 2 * frame.side / (frame.height - align_corners)]
    x, y = Frame.pixels(*size).axes(device, torch.float64)
    scale = torch.tensor(factors, device=device)[:, None, None]
    return size, scale, frame.points(device), (x * factors[0]).float(), (y * factors[1]).float()[:, None]


def _centres(pixels: int, nodes: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, " nodes"]:
    return torch.linspace(0, pixels - 1, nodes, device=device, dtype=dtype) + 0.5
