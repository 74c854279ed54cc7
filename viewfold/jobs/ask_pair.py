"""An index with the encoder that built it, and the one from before adaptation: what a question needs of models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from viewfold.errors import InvalidInput
from viewfold.jobs.registry import Registry
from viewfold.pipeline.decode import decode_image
from viewfold.retrieval import IndexBundle, Query, image_hashes
from viewfold.ssl.encoder import Encoder, load_encoder

STAGES = ("adapt", "pretrain", "start")


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


def open_pair(source: str, home: Path, *, encoder: str | None = None) -> Pair:
    """Find a bundle and its encoder; a pair that does not belong together is refused.

    `source` is a run folder that holds an index, a bundle, or `models:/name@alias` in the registry of `home`. The
    encoder is found with it; for a bundle that lies in no run folder, `encoder` names it: its folder, a run folder or
    `models:/name@alias`.

    Raises:
        InvalidInput: there is no bundle, or no encoder; says where it was looked for.
        ArtifactMismatch: the encoder is not the one that built the bundle; names both.
    """
    folder, found = _located(source, home)
    if encoder is not None:
        from viewfold.jobs.card import find_candidate  # brings all that draws cards: seconds

        found = Path(find_candidate(encoder, home).folder)
    if found is None:
        raise InvalidInput(f"{source}: the encoder of this index does not lie in a run folder with it; name --encoder")
    loaded = load_encoder(found)
    bundle = IndexBundle.open(folder, encoder_id=loaded.id)
    return Pair(loaded, bundle, _base(bundle))


def _located(source: str, home: Path) -> tuple[Path, Path | None]:
    """The bundle's folder and its encoder's."""
    if source.startswith("models:/"):
        version = Registry(home).resolve(source)
        if "bundle" not in version.tags:
            raise InvalidInput(
                f"{source}: registered without an index; run its recipe up to `index` and register again"
            )
        return Path(version.tags["bundle"]), version.encoder
    folder = Path(source)
    if (folder / "bundle.json").is_file():
        built_with = _facts(folder / "bundle.json").get("encoder_id")
        return folder, _encoder_of_run(_run_of(folder), built_with)
    stages = [path for stage in STAGES if (path := folder / stage / "encoder").is_dir()]
    bundle = folder / "index" / "bundle"
    if not stages or not bundle.is_dir():
        raise InvalidInput(
            f"{source}: not a run folder with an encoder and an index; `viewfold index RECIPE` makes one"
        )
    return bundle, stages[0]


def _run_of(bundle: Path) -> Path:
    return bundle.absolute().parent.parent


def _encoder_of_run(run: Path, encoder_id: str | None) -> Path | None:
    """The encoder with this id in a run folder, if it is there."""
    for stage in STAGES:
        file = run / stage / "encoder" / "encoder.json"
        if file.is_file() and _facts(file).get("id") == encoder_id:
            return file.parent
    return None


def _facts(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not text
        found = None
    if not isinstance(found, dict):
        raise InvalidInput(f"{file}: damaged, not a JSON object; copy its folder again or make it again")
    return found


def _base(bundle: IndexBundle) -> Encoder | None:
    if bundle.info.base_encoder_id is None:
        return None
    folder = _encoder_of_run(_run_of(bundle.folder), bundle.info.base_encoder_id)
    return None if folder is None else load_encoder(folder)
