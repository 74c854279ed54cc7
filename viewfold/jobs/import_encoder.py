"""Import an encoder that others trained: a published backbone and its weights become an encoder folder."""

import hashlib
import re
from pathlib import Path

from viewfold.errors import InvalidInput
from viewfold.ssl.encoder import save_encoder
from viewfold.ssl.foreign import Triple, foreign_encoder


def import_encoder(
    backbone: str,
    weights: str,
    *,
    image_size: int,
    mean: Triple | None = None,
    std: Triple | None = None,
    out: Path | None = None,
) -> str:
    """Write the encoder to `out`, by default `encoders/BACKBONE-IMAGE_SIZE`; answers with one line on what is there.

    Raises:
        InvalidInput: `foreign_encoder`'s, or a folder that holds something else.
    """
    folder = out or Path("encoders") / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', backbone)}-{image_size}"
    if folder.exists() and not (folder / "encoder.json").is_file():
        raise InvalidInput(f"{folder}: exists and is not an encoder folder; name another with --out")
    encoder = foreign_encoder(backbone, weights, image_size=image_size, mean=mean, std=std)
    identity = save_encoder(encoder, folder, lineage={"imported": backbone, "weights": _named(weights)})
    return (
        f"{folder}: encoder {identity}, {encoder.dim} features of {image_size} px images; begin a run with it by "
        f"start={folder}"
    )


def _named(weights: str) -> dict[str, str]:
    """Where the weights are from: a file by its content, wherever it lay."""
    path = Path(weights)
    if not path.is_file():
        return {"published": weights}
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
