"""A small index behind the service, with a real encoder that needs no torch: the pixels of a tiny thumbnail."""

import io
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pools import pool

from viewfold.errors import InvalidInput
from viewfold.retrieval import IndexBundle, build_bundle, image_hashes
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.backend import Backend
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.local import LocalBackend, Opened

SIDE = 4
LOCAL = "http://127.0.0.1"
HUES = {"red": (220, 40, 30), "green": (40, 200, 60), "blue": (30, 60, 210)}


class Thumbnails:
    """`Encode`: an image scaled to 4 x 4, its colours as a vector."""

    size = 16

    def __init__(self, encoder_id: str = "thumbnails-4") -> None:
        self.id = encoder_id
        self.calls: list[int] = []
        """How many images each call was given."""

    def __call__(self, images: Sequence[bytes]) -> list[NDArray[np.floating[Any]] | InvalidInput]:
        self.calls.append(len(images))
        return [_vector(data) for data in images]


def _vector(data: bytes) -> NDArray[np.floating[Any]] | InvalidInput:
    try:
        with Image.open(io.BytesIO(data)) as image:
            small = ImageOps.exif_transpose(image).convert("RGB").resize((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError) as error:
        return InvalidInput(f"broken image: {error}")
    return np.asarray(small, dtype=np.float32).ravel() - 100


def picture(hue: str, seed: int, *, file: str = "PNG", size: int = 24) -> bytes:
    """An image file of one colour with noise on it."""
    noise = np.random.default_rng(seed).integers(-25, 25, (size, size, 3))
    pixels = (np.array(HUES[hue]) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file)
    return buffer.getvalue()


def images(count: int = 12) -> dict[str, bytes]:
    """Image files by key; the label is the colour."""
    hues = list(HUES)
    return {f"{hues[number % 3]}/{number:02d}": picture(hues[number % 3], number) for number in range(count)}


def built(
    folder: Path,
    *,
    encoder_id: str = "thumbnails-4",
    count: int = 12,
    files: Mapping[str, bytes] | None = None,
    card: Path | None = None,
    **columns: Any,
) -> IndexBundle:
    """A bundle of `files` or else `images`, in two domains, two images to a group, with thumbnails."""
    files = images(count) if files is None else files
    keys = sorted(files)
    hashes = [image_hashes(files[key]) for key in keys]
    features = pool(
        np.stack([vector_of(files[key]) for key in keys]),
        encoder_id=encoder_id,
        **{
            "key": keys,
            "label": [key.partition("/")[0] for key in keys],
            "domain": [("paper", "screen")[row % 2] for row in range(len(keys))],
            "group": [f"group-{row // 2}" for row in range(len(keys))],
            "sha256": [sha256 for sha256, _ in hashes],
            "phash": [phash for _, phash in hashes],
            **columns,
        },
    )
    return build_bundle(features, folder, thumbnails=[(key, _jpeg(files[key])) for key in keys], card=card)


def opened(bundle: IndexBundle, encode: Thumbnails | None = None) -> Opened:
    """The bundle with its encoder; images come from memory."""
    files = images(bundle.info.n)
    encoder = encode or Thumbnails(bundle.info.encoder_id)
    return Opened(bundle, encoder, None, files.__getitem__, source=str(bundle.folder))


def backend(folder: Path) -> LocalBackend:
    """A loaded backend; sources are folders of bundles, `folder` the first."""
    served = LocalBackend(lambda source: opened(IndexBundle.open(folder if source is None else Path(source))))
    served.load()
    return served


def app(folder: Path, **settings: Any) -> FastAPI:
    """The application over the bundle in `folder`."""
    return make_app(backend(folder), ServiceConfig(**settings))


def client(folder: Path, **settings: Any) -> TestClient:
    """Asks the application over the bundle in `folder`."""
    return TestClient(app(folder, **settings), base_url=LOCAL)


@contextmanager
def serving(served: Backend, settings: ServiceConfig | None = None) -> Iterator[str]:
    """The application behind a real server on a free port of this machine; its address."""
    asked = make_app(served, settings or ServiceConfig())
    server = uvicorn.Server(uvicorn.Config(asked, host="127.0.0.1", port=0, log_config=None, ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def vector_of(data: bytes) -> NDArray[np.floating[Any]]:
    """The vector of an image that can be read."""
    vector = _vector(data)
    assert not isinstance(vector, InvalidInput)
    return vector


def _jpeg(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()
