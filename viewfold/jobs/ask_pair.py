"""An index with the encoder that built it, and the one from before adaptation: what a question needs of models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.jobs.pair_folders import encoder_beside, pair_folders
from viewfold.pipeline.decode import decode_image
from viewfold.retrieval import IndexBundle, Query, image_hashes
from viewfold.ssl.encoder import Encoder, load_encoder


@dataclass(frozen=True, eq=False)
class Pair:
    """A bundle and the encoder that built it."""

    encoder: Encoder
    bundle: IndexBundle
    base: Encoder | None
    """The encoder of the bundle's base vectors, where it has some and the run folder of it is there."""

    @property
    def warnings(self) -> list[str]:
        """What cannot be guarded against with what is there."""
        if self.base is not None or self.bundle.info.base_encoder_id is None:
            return []
        return [
            f"encoder {self.bundle.info.base_encoder_id}, from before adaptation, is not beside the index: near "
            "duplicates of the image are told by their hash alone"
        ]

    def query(self, data: bytes, name: str, *, group: str | None = None) -> Query:
        """The image file `data` as a question to the bundle; `name` says whose it is.

        Raises:
            InvalidInput: not an image, by `name`.
        """
        try:
            vector = self._vector(self.encoder, data)
            sha256, phash = image_hashes(data)
            base = None if self.base is None else self._vector(self.base, data)
        except InvalidInput as error:
            raise InvalidInput(f"{name}: {error}") from None
        return Query(id=name, vector=vector, group=group, sha256=sha256, phash=phash, base_vector=base)

    def _vector(self, encoder: Encoder, data: bytes) -> NDArray[np.floating[Any]]:
        pixels = decode_image(data, encoder.config.preprocessing.image_size)
        features = encoder.encode(torch.as_tensor(np.asarray(pixels))[None])
        vector: NDArray[np.floating[Any]] = getattr(features, self.bundle.info.part)[0].numpy()
        return vector


def open_pair(source: str | Path, home: str | Path, *, encoder: str | Path | None = None) -> Pair:
    """Find a bundle and its encoder; a pair that does not belong together is refused.

    `source` is a run folder that holds an index, a bundle, or `models:/name@alias` in the registry of `home`. The
    encoder is found with it; for a bundle that lies in no run folder, `encoder` names it: its folder, a run folder or
    `models:/name@alias`.

    >>> pair = vf.open_pair("runs/mine", "runs")
    >>> pair.encoder.id == pair.bundle.info.encoder_id, len(pair.bundle)
    (True, 24)

    Raises:
        InvalidInput: there is no bundle, or no encoder; says where it was looked for.
        ArtifactMismatch: the encoder is not the one that built the bundle; names both.
    """
    folder, found = pair_folders(str(source), Path(home), encoder=None if encoder is None else str(encoder))
    loaded = load_encoder(found)
    bundle = IndexBundle.open(folder, encoder_id=loaded.id)
    return Pair(loaded, bundle, _base(bundle))


def _base(bundle: IndexBundle) -> Encoder | None:
    if bundle.info.base_encoder_id is None:
        return None
    folder = encoder_beside(bundle.folder, bundle.info.base_encoder_id)
    return None if folder is None else load_encoder(folder)
