"""What the service is given to answer from: an index, the encoders that it belongs to, and the images behind it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from viewfold.errors import InvalidInput
from viewfold.jobs.ask_pair import open_pair
from viewfold.jobs.file_encoder import FileEncoder
from viewfold.jobs.pair_folders import pinned
from viewfold.jobs.pool_images import PoolImages
from viewfold.retrieval.service.local import Opened
from viewfold.ssl.encoder import Encoder


def open_source(source: str, home: Path, *, encoder: str | None = None, shards: Sequence[str] | None = None) -> Opened:
    """Open an index with all that is served from it, everything held against its sha256 and the encoders probed.

    `source`, `home` and `encoder` are as for `open_pair`; an alias is looked up once, so that encoder, index and the
    version that is told belong together while it moves. `shards` say where the images lie now, if they were moved.
    The encoders are put on the GPU where there is one.

    Raises:
        InvalidInput: nothing to serve there, or a damaged one; says what is missing or names the file.
        ArtifactMismatch: index and encoder that were not made for each other; names both.
    """
    try:
        exact, version = pinned(source, home)
        pair = open_pair(exact, home, encoder=encoder)
    except OSError as error:  # a file that may not be read, one that goes away
        raise InvalidInput(f"{source}: cannot be opened: {error.strerror or error}") from None
    part = pair.bundle.info.part
    base = None if pair.base is None else FileEncoder(_placed(pair.base), part)
    images = PoolImages(pair.bundle, shards)
    return Opened(
        bundle=pair.bundle,
        encode=FileEncoder(_placed(pair.encoder), part),
        base_encode=base,
        image_of=images.image_of,
        source=source,
        version=version,
    )


def _placed(encoder: Encoder) -> Encoder:
    return encoder.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
