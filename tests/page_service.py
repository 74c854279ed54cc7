"""What tests of the page show in a browser: the service over pictures drawn here, and the browser itself."""

import io
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image, ImageDraw, UnidentifiedImageError
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pools import pool

from viewfold.errors import InvalidInput
from viewfold.retrieval import IndexBundle, build_bundle, image_hashes
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.local import LocalBackend, Opened

SIDE = 8
COLOURS = {"berry": (190, 30, 60), "leaf": (40, 150, 60), "<b>sky</b>": (60, 120, 220)}
"""Label and colour of each class; the last label is a piece of markup, which must be shown as it is written."""
DOMAINS = ("drawn", "printed")
OF_EACH = 10
CARD = '{"measures": []}'


class Thumbnail:
    """An encoder: the pixels of a small picture, grey being the origin."""

    id = "thumbnail"
    size = SIDE

    def __call__(self, images: Sequence[bytes]) -> list[NDArray[np.floating] | InvalidInput]:
        return [_embedded(data) for data in images]


def picture(label: str, number: int) -> bytes:
    """A PNG file: a disc in the colour of the class, at a place and on a ground of its own."""
    rng = np.random.default_rng([list(COLOURS).index(label), number])
    image = Image.new("RGB", (64, 64), tuple(rng.integers(215, 255, 3).tolist()))
    x, y = rng.integers(2, 22, 2).tolist()
    ImageDraw.Draw(image).ellipse((x, y, x + 38, y + 38), fill=COLOURS[label])
    return _file(image, "PNG")


def write_bundle(folder: Path, *, of_each: int = OF_EACH, card: Path | None = None) -> IndexBundle:
    """An index of `of_each` pictures of every class in every domain, with the file of a card if one is given."""
    named = [
        (f"{domain}/{place}-{number:02d}", label, domain, picture(label, 100 * which + number))
        for which, domain in enumerate(DOMAINS)
        for place, label in enumerate(COLOURS)
        for number in range(of_each)
    ]
    keys, labels, domains, files = map(list, zip(*named, strict=True))
    sha256, phash = map(list, zip(*map(image_hashes, files), strict=True))
    vectors = np.stack([_pixels(data) for data in files])
    columns = {"key": keys, "label": labels, "domain": domains, "sha256": sha256, "phash": phash}
    features = pool(vectors, encoder_id=Thumbnail.id, **columns)
    thumbnails = list(zip(keys, map(_jpeg, files), strict=True))
    return build_bundle(features, folder, factory="Flat", thumbnails=thumbnails, card=card)


@contextmanager
def serving(backend: LocalBackend, config: ServiceConfig) -> Iterator[str]:
    """The address of the service in a thread of this process, ended at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = make_app(backend, config)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def backend_of(*folders: Path) -> LocalBackend:
    """A backend that serves the bundle in the first folder; a reload names the source, the folder of another."""

    def opened(source: str | None) -> Opened:
        folder = folders[0] if source is None else Path(source)
        bundle = IndexBundle.open(folder, encoder_id=Thumbnail.id)
        return Opened(bundle, Thumbnail(), None, None, str(folder))

    backend = LocalBackend(opened)
    backend.load()
    return backend


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this machine; a test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: install chromium to look at the page")
    quiet = ["--no-sandbox", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=quiet)
        yield browser
        browser.close()


def ask(page: Page) -> None:
    page.set_input_files("#file", BERRY)
    expect(page.locator("#prompt")).to_be_visible()


def cards(page: Page) -> list[str]:
    return page.locator("#items .label").all_inner_texts()


def settled(page: Page) -> None:
    """Wait until what a change of a setting brought is shown."""
    page.wait_for_timeout(300)  # the page waits as long for the next change
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")


def _embedded(data: bytes) -> NDArray[np.floating] | InvalidInput:
    try:
        return _pixels(data)
    except UnidentifiedImageError:
        return InvalidInput("not an image that can be read; send a JPEG, PNG or WebP file")


def _pixels(data: bytes) -> NDArray[np.float32]:
    small = Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE))
    return np.asarray(np.asarray(small).ravel() / 128 - 1, dtype=np.float32)


def _jpeg(data: bytes) -> bytes:
    return _file(Image.open(io.BytesIO(data)).resize((32, 32)), "JPEG")


def _file(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


BERRY: Any = {"name": "berry.png", "mimeType": "image/png", "buffer": picture("berry", 7000)}
"""A file as the browser is given it."""
