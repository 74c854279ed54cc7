"""Damaged images and damaged JSON: every answer is one JSON object with a reason, and none is a fault of the service.

A limit of body and pixels that tests can reach stands before the decoder; what passes it is really decoded.
"""

import base64
import contextlib
import dataclasses
import io
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from served import LOCAL, SIDE, backend, built, picture
from starlette.testclient import TestClient

from viewfold.errors import InvalidInput
from viewfold.pipeline import decode_image
from viewfold.retrieval import FilterConfig, QuotaConfig
from viewfold.retrieval.hashing import image_hashes
from viewfold.retrieval.prompt import BudgetConfig
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import LimitsConfig, ServiceConfig
from viewfold.retrieval.service.images import check_header
from viewfold.retrieval.service.routes_clip import KnnSettings, MetadataBody
from viewfold.retrieval.service.schemas import QueryBody, SettingsBody

# Pillow warns of damaged tags of a TIFF, which it skips.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")
ROUTES = ("/v1/demonstrations", "/v1/demonstrations:batch", "/v1/search", "/v1/embed", "/v1/messages", "/knn-service")
many = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("fuzz") / "bundle"
    built(folder)
    limits = LimitsConfig(max_body_bytes=1 << 20, max_pixels=10_000, max_k=16, max_batch=4)
    app = make_app(backend(folder), ServiceConfig(limits=limits))
    with TestClient(app, base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client


def check(answer: Any) -> int:
    """The status, which is that of a request that was understood or refused with a reason."""
    assert answer.status_code in {200, 400, 413, 422}, (answer.status_code, answer.text[:500])
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "request_id"}
        assert "Traceback" not in error["message"]
        assert "\n" not in error["message"]
    return int(answer.status_code)


def image_file(kind: str, mode: str = "RGB", size: tuple[int, int] = (24, 24), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture("red", 3))).convert("RGB").resize(size).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An image file of any of the formats, cut, with bytes changed, doubled, or with another in it."""
    data = bytearray(image_file(draw(st.sampled_from(FORMATS))))
    for _ in range(draw(st.integers(0, 12))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    if draw(st.booleans()):
        place = draw(st.integers(0, len(data)))
        data[place:place] = draw(st.binary(max_size=64))
    return bytes(data)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of so many pixels in few bytes."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><script>alert(1)</script></svg>'
REFUSED = {
    "bomb": png_bomb(60_000, 60_000),
    "large": image_file("PNG", size=(101, 100)),
    "svg": SVG,
    "empty": b"",
    "pdf": b"%PDF-1.7\n" + bytes(64),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) run",
    "html": b"<html><img src=x onerror=alert(1)>",
    "truncated jpeg header": image_file("JPEG")[:12],
    "no pixels": png_bomb(0, 0),
}
TAKEN = {
    "cmyk": image_file("JPEG", "CMYK"),
    "grey": image_file("PNG", "L"),
    "palette": image_file("GIF", "P"),
    "bits": image_file("PNG", "1"),
    "alpha": image_file("PNG", "RGBA"),
    "16 bits": image_file("PNG", "I;16"),
    "animated": image_file("GIF", "P", save_all=True, append_images=[Image.new("P", (24, 24), 9)] * 3),
    "polyglot": image_file("JPEG") + b"PK\x03\x04" + SVG,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_or_too_large_is_refused(http: TestClient, name: str) -> None:
    assert check(http.post("/v1/embed", content=REFUSED[name], headers={"Content-Type": "image/png"})) == 422


def test_postscript_is_handed_to_no_interpreter() -> None:
    data = REFUSED["postscript"]
    with pytest.raises(InvalidInput, match="cannot identify"):
        image_hashes(data)
    with pytest.raises(InvalidInput, match="not an image"):
        decode_image(data, 16)


@pytest.mark.parametrize("name", TAKEN)
def test_images_of_every_kind_are_read(http: TestClient, name: str) -> None:
    assert check(http.post("/v1/demonstrations", content=TAKEN[name], headers={"Content-Type": "image/png"})) == 200


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(http: TestClient) -> None:
    body = b" " * (2 << 20)
    assert check(http.post("/v1/search", content=body)) == 413
    assert check(http.post("/v1/search", content=iter([body]))) == 413


@pytest.mark.slow
@many
@given(data=damaged())
def test_a_damaged_image_is_refused_or_read(http: TestClient, data: bytes) -> None:
    check(http.post("/v1/demonstrations", content=data, headers={"Content-Type": "image/png"}))
    encoded = base64.b64encode(data).decode()
    check(http.post("/knn-service", json={"image": encoded}))
    answer = http.post("/v1/embed", json={"images": [encoded, base64.b64encode(picture("red", 1)).decode()]})
    if check(answer) == 200:
        assert "vector" in answer.json()["results"][1]


@pytest.mark.slow
@many
@given(data=damaged())
def test_the_decoder_of_the_service_refuses_or_reads_what_the_header_let_pass(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        check_header(data, 10_000)
        image_hashes(data)
        assert decode_image(data, 16).shape == (3, 16, 16)


leaves = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
BODIES = (QueryBody, SettingsBody, FilterConfig, QuotaConfig, BudgetConfig, KnnSettings, MetadataBody)
OTHERS = ("queries", "images", "image", "embedding_input", "lam", "min_p_match", "source")
words = st.sampled_from([*OTHERS, *(field.name for body in BODIES for field in dataclasses.fields(body))])
values = st.recursive(
    leaves | st.text(max_size=12) | st.sampled_from(["paper", "red", "random", "openai", "min_per_class", "QUJD"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DIM = 3 * SIDE**2
VECTOR = [0.25] * DIM


@pytest.mark.slow
@many
@given(body=st.dictionaries(words, values, max_size=5), route=st.sampled_from(ROUTES), sent=st.booleans())
@example(body={"filters": {"attrs": json.loads("[" * 300 + "]" * 300)}}, route="/v1/search", sent=True)
@example(body={"words": json.loads('{"a":' * 400 + "1" + "}" * 400)}, route="/v1/demonstrations", sent=True)
@example(body={"seed": -1, "strategy": "random"}, route="/v1/demonstrations", sent=True)
@example(body={"seed": 2**64, "strategy": "random", "order": "random"}, route="/v1/demonstrations", sent=True)
@example(body={"seed": 10**30, "order": "random"}, route="/v1/demonstrations", sent=True)
@example(body={"id": "\x00", "group": "\ud7ff\U0010ffff"}, route="/v1/demonstrations", sent=True)
@example(body={"phash": "zz", "sha256": ""}, route="/v1/demonstrations", sent=True)
@example(body={"filters": {"attrs": {"thumb_size": ["1"]}}}, route="/v1/search", sent=True)
@example(body={"k": 10**25}, route="/v1/search", sent=True)
@example(body={"vector": [1e308] * DIM}, route="/v1/search", sent=False)
@example(body={"vector": [1e-300] * DIM}, route="/v1/demonstrations", sent=False)
@example(body={"embedding_input": [1e308] * DIM}, route="/knn-service", sent=False)
@example(body={"max_side": 0, "format": "openai"}, route="/v1/messages", sent=True)
@example(body={"budget": {"max_bytes": 1}}, route="/v1/messages", sent=True)
@example(
    body={"quota": {"temperature": 1e-308, "rule": "proportional_to_posterior"}}, route="/v1/demonstrations", sent=True
)
def test_json_of_any_shape_is_answered_or_refused(
    http: TestClient, body: dict[str, Any], route: str, sent: bool
) -> None:
    if sent:  # a query that can be used, so that the settings are looked at
        body = {"embedding_input" if route == "/knn-service" else "vector": VECTOR, **body}
    check(http.post(route, json=body))


@pytest.mark.slow
@many
@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode), route=st.sampled_from(ROUTES))
@example(data=b"[" * 100_000, route="/v1/search")
@example(data=b'{"k": 1e999}', route="/v1/search")
@example(data=b'{"k": NaN}', route="/v1/search")
@example(data=b'{"k": 1, "k": 2, "vector": [1]}', route="/v1/search")
@example(data=b'{"id": "\\ud800"}', route="/v1/search")
@example(data=b"\xff\xfe{\x00}\x00", route="/v1/search")
def test_bytes_that_are_no_json_are_refused(http: TestClient, data: bytes, route: str) -> None:
    assert check(http.post(route, content=data, headers={"Content-Type": "application/json"})) != 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "[::1"},
        {"Host": "127.0.0.1:99999999"},
        {"Origin": "http://[::1"},
        {"Origin": "null"},
        {"Authorization": "Basic \xff\xfe"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary="},
        {"Content-Type": "application/json; charset=utf-16"},
        {"X-Request-Id": "a\x01b"},
        {"Accept": ""},
    ],
    ids=str,
)
def test_headers_of_any_kind_are_answered_or_refused(http: TestClient, headers: dict[str, str]) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = http.post("/v1/search", content=json.dumps({"vector": VECTOR}), headers=raw)  # type: ignore[arg-type]
    assert answer.status_code < 500, answer.text
    assert answer.status_code == 200 or set(answer.json()) == {"error"}
