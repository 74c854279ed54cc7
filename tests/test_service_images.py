"""Images that strangers send: unusual, damaged, or made to hurt, each is answered or refused with one sentence."""

import asyncio
import base64
import io
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from served import LOCAL, built, client, opened, picture

from viewfold.errors import InvalidInput
from viewfold.retrieval import IndexBundle
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import LimitsConfig, ServiceConfig
from viewfold.retrieval.service.images import check_header, from_text
from viewfold.retrieval.service.local import LocalBackend


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return built(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def api(bundle: IndexBundle) -> TestClient:
    return client(bundle.folder, limits=LimitsConfig(max_body_bytes=100_000, max_pixels=1_000_000))


def saved(image: Image.Image, file: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb() -> bytes:
    """A PNG of 70 bytes whose header claims 30000 x 30000 pixels."""
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


RED = Image.open(io.BytesIO(picture("red", 99)))
TURNED = Image.Exif()
TURNED[0x0112] = 6

UNREADABLE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"hello",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "pdf": lambda: b"%PDF-1.7\n%%EOF",
    "eps": lambda: saved(RED, "EPS"),
    "html": lambda: b"<html><script>alert(1)</script>",
    "bomb": bomb,
    "cut_png": lambda: picture("red", 1)[:400],
    "cut_jpeg": lambda: picture("red", 1, file="JPEG")[:300],
    "cut_webp": lambda: picture("red", 1, file="WEBP")[:60],
    "header_alone": lambda: picture("red", 1)[:30],
    "zip": lambda: b"PK\x03\x04" + bytes(60),
}

READABLE: dict[str, Callable[[], bytes]] = {
    "cmyk": lambda: saved(RED.convert("CMYK"), "JPEG"),
    "turned": lambda: saved(RED, "JPEG", exif=TURNED),
    "grey16": lambda: saved(Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "PNG"),
    "alpha": lambda: saved(RED.convert("RGBA"), "PNG"),
    "palette": lambda: saved(RED.convert("P"), "GIF"),
    "animated": lambda: saved(RED, "GIF", save_all=True, append_images=[RED.rotate(90)]),
    "tiff": lambda: saved(RED, "TIFF"),
    "one_pixel": lambda: saved(Image.new("RGB", (1, 1), "red"), "PNG"),
    "polyglot": lambda: saved(RED, "JPEG") + b"PK\x03\x04<html><script>alert(1)</script>",
}


@pytest.mark.parametrize("kind", sorted(UNREADABLE))
def test_what_is_no_whole_image_is_refused_with_one_sentence(api: TestClient, kind: str) -> None:
    answer = api.post("/v1/demonstrations", content=UNREADABLE[kind](), headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    assert "\n" not in answer.json()["error"]["message"]


@pytest.mark.parametrize("kind", sorted(READABLE))
def test_unusual_images_are_answered_and_what_lies_behind_one_is_never_shown(api: TestClient, kind: str) -> None:
    data = READABLE[kind]()
    answer = api.post("/v1/messages", content=data, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200
    shown = answer.json()["prompt"]["messages"][-1]["content"][0]["image_url"]["url"]
    assert b"<script>" not in from_text(shown)


def test_an_image_of_too_many_pixels_is_told_from_its_header() -> None:
    with pytest.raises(InvalidInput, match="more than the 1000 pixels allowed"):
        check_header(bomb(), 1000)
    check_header(picture("red", 1, size=10), 100)
    with pytest.raises(InvalidInput, match="more than the 99 allowed"):
        check_header(picture("red", 1, size=10), 99)


def rechunked(data: bytes, size: int) -> bytes:
    """A PNG whose pixels lie in chunks of `size` bytes."""
    start, end = data.index(b"IDAT") - 4, data.rindex(b"IEND") - 4
    packed, position = b"", start
    while position < end:
        (length,) = struct.unpack_from(">I", data, position)
        packed += data[position + 8 : position + 8 + length]
        position += 12 + length
    parts = [chunk(b"IDAT", packed[place : place + size]) for place in range(0, len(packed), size)]
    return data[:start] + b"".join(parts) + data[end:]


MANY = 10_000
PNG, JPEG, GIF = (saved(RED, file) for file in ("PNG", "JPEG", "GIF"))
IN_PARTS: dict[str, Callable[[], bytes]] = {
    "png_before": lambda: PNG[:33] + MANY * chunk(b"teXt", b"") + PNG[33:],
    "png_after": lambda: PNG[:-12] + MANY * chunk(b"teXt", b"") + PNG[-12:],
    "png_pixels": lambda: PNG[:33] + MANY * chunk(b"IDAT", b"") + PNG[33:],
    "jpeg_segments": lambda: JPEG[:2] + MANY * b"\xff\xfe\0\2" + JPEG[2:],
    "jpeg_padding": lambda: JPEG[:2] + MANY * b"\xff" + JPEG[2:],
    "jpeg_junk": lambda: JPEG[:20] + MANY * b"\0" + JPEG[20:],
    "jpeg_restarts": lambda: JPEG[:20] + MANY * b"\xff\xd0" + JPEG[20:],
    "gif_blocks": lambda: GIF[: GIF.index(b"\x2c\0\0")] + b"!\xfe" + MANY * b"\1a" + b"\0,",
    "gif_extensions": lambda: GIF[: GIF.index(b"\x2c\0\0")] + MANY * b"!\xfe\0" + b",",
    "tiff_entries": lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", MANY) + MANY * bytes(12) + bytes(4),
    "bigtiff_entries": lambda: b"MM\0+\0\x08\0\0" + struct.pack(">QQ", 16, 2**60) + bytes(99),
}


@pytest.mark.parametrize("kind", sorted(IN_PARTS))
def test_a_file_in_too_many_parts_is_refused_before_anybody_steps_through_them(api: TestClient, kind: str) -> None:
    data = IN_PARTS[kind]()
    with pytest.raises(InvalidInput, match=r"in more than \d+ parts"):
        check_header(data, 1000)
    answer = api.post("/v1/embed", content=data[:99_000], headers={"Content-Type": "image/png"})
    assert answer.status_code == 422


def test_a_large_picture_in_small_chunks_is_taken() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    data = rechunked(saved(Image.fromarray(noise), "PNG"), 1024)
    assert data.count(b"IDAT") > 700
    check_header(data, 250_000)


@pytest.mark.parametrize("path", ["/v1/embed", "/knn-service"])
def test_headers_are_looked_at_beside_the_event_loop(bundle: IndexBundle, path: str) -> None:
    made, busy = make_app(LocalBackend(lambda _: opened(bundle)), ServiceConfig()), threading.Event()

    async def scene() -> list[int]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await made.state.backend.reload(None)
        holding = asyncio.create_task(asyncio.to_thread(busy.wait, 10))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url=LOCAL) as asking:
            image = base64.b64encode(IN_PARTS["png_before"]()).decode()
            sent = asyncio.create_task(asking.post(path, json={"image": image}))
            await asyncio.sleep(0.05)
            alive = await asking.get("/healthz")
            waited = not sent.done()
            busy.set()
            await holding
            return [alive.status_code, waited, (await sent).status_code]

    assert asyncio.run(scene()) == [200, True, 422]


@pytest.mark.parametrize(
    "text", ["http://a/b.png", "file:///etc/passwd", "data:image/png,abc", "data:", "a b c", "", "é"]
)
def test_addresses_and_broken_encodings_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        from_text(text)
