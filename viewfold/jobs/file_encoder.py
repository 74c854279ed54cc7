"""An encoder that is asked with image files: what the service and a notebook embed with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.pipeline.decode import decode_image
from viewfold.ssl.encoder import Encoder


@dataclass(frozen=True, eq=False)
class FileEncoder:
    """An encoder that is asked with image files, many at once, and answers with one part of their features."""

    encoder: Encoder
    part: str

    @property
    def id(self) -> str:
        """The encoder's identity: that of the folder it was loaded from."""
        return str(self.encoder.id)

    @property
    def size(self) -> int:
        """Pixels per side of what the encoder sees of an image."""
        return self.encoder.config.preprocessing.image_size

    def __call__(self, images: Sequence[bytes]) -> list[NDArray[np.floating[Any]] | InvalidInput]:
        """For each file its float32 vector `[dim]`, or why it is no image; one that is none costs the others nothing.

        Files are decoded one by one and encoded together. May be called by several threads.
        """
        seen = [_decoded(data, self.size) for data in images]
        rows = self._rows([image for image in seen if not isinstance(image, InvalidInput)])
        return [image if isinstance(image, InvalidInput) else next(rows) for image in seen]

    def _rows(self, pixels: Sequence[NDArray[np.uint8]]) -> Iterator[NDArray[np.floating[Any]]]:
        if pixels:
            features = self.encoder.encode(torch.from_numpy(np.stack(pixels)))
            yield from getattr(features, self.part).numpy()


def _decoded(data: bytes, size: int) -> NDArray[np.uint8] | InvalidInput:
    try:
        return decode_image(data, size)
    except InvalidInput as error:
        return error
