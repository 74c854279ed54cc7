"""Requests that strangers send: too large, too many, too slow or nonsense, they are answered with one sentence."""

import asyncio
import base64
import threading
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from served import LOCAL, Thumbnails, built, client, opened, picture

from viewfold.retrieval import IndexBundle, SelectConfig
from viewfold.retrieval.prompt.images import MAX_PIXELS
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import LimitsConfig, ServiceConfig
from viewfold.retrieval.service.local import LocalBackend

LIMITS: dict[str, Any] = {"max_body_bytes": 100_000, "max_k": 5, "max_batch": 3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return built(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def api(bundle: IndexBundle) -> TestClient:
    return client(bundle.folder, limits=LimitsConfig(**LIMITS), select=SelectConfig(k=3))


def test_a_long_body_is_refused_by_its_announced_length_and_by_what_comes(api: TestClient) -> None:
    long = base64.b64encode(bytes(100_000))
    announced = api.post("/v1/search", content=long)
    streamed = api.post("/v1/search", content=iter([long[:60_000], long[60_000:]]))
    assert (announced.status_code, streamed.status_code) == (413, 413)
    assert streamed.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/demonstrations", {"vector": [1.0] * 48, "k": 6}, "k must be at most 5"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "k": -1}, "k must be 0 or more"),
        ("/v1/search", {"vector": [1.0] * 48, "k": 6}, "k must be at most 5"),
        ("/v1/search", {"vector": [1.0] * 48, "k": 0}, "k must"),
        ("/v1/search", {"queries": [{"vector": [1.0] * 48}] * 4}, "list of 1 to 3"),
        ("/v1/search", {"queries": []}, "list of 1 to 3"),
        ("/v1/embed", {"images": ["aaaa"] * 4}, "list of 1 to 3"),
        ("/v1/search", {"vector": [1.0] * 47}, "47 numbers"),
        ("/v1/search", {"vector": [1.0] * 48, "base_vector": [1.0]}, "no vectors of a base encoder"),
        ("/v1/search", {"vector": [0.0] * 48}, "all zeros"),
        ("/v1/search", {"vector": [1e300] * 48}, "not finite"),
        ("/v1/search", {"vector": [True] * 48}, "list of numbers"),
        ("/v1/search", {"vector": "1,2"}, "list of numbers"),
        ("/v1/search", {}, "either an image or a vector"),
        ("/v1/search", {"image": "aaaa", "vector": [1.0]}, "either an image or a vector"),
        ("/v1/search", {"image": 5}, "base64"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "phash": "x"}, "perceptual hash"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "id": ["a"]}, "id must be a text"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "strategy": "oracle"}, "strategy"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "filters": {"domain": ["paper"]}}, "did you mean 'domains'"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "filters": {"domains": ["papr"]}}, "did you mean 'paper'"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "seed": 2**60}, "seed"),
        ("/v1/demonstrations", {"vector": [1.0] * 48, "quota": {"per_class": 2**40}}, "per_class"),
        ("/v1/demonstrations:batch", {"queries": [{"vecto": [1.0] * 48}]}, "did you mean 'vector'"),
        ("/v1/demonstrations:batch", {"queries": [5]}, "queries.0"),
        ("/v1/demonstrations:batch", {"queries": [], "image": "aaaa"}, "not beside them"),
        ("/v1/embed", {"image": "aaaa", "k": 3}, "unknown key 'k'"),
        ("/v1/admin/reload", {"sauce": "x"}, "did you mean 'source'"),
    ],
)
def test_what_is_out_of_bounds_is_named(api: TestClient, path: str, body: dict[str, Any], says: str) -> None:
    answer = api.post(path, json=body)
    assert answer.status_code == 422
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"k": NaN}', b'{"a":' * 2000, b"\xff", b'{"":{"":1}}'])
def test_bodies_that_are_no_json_object_are_refused(api: TestClient, body: bytes) -> None:
    for path in ("/v1/demonstrations", "/v1/demonstrations:batch", "/v1/messages", "/v1/search", "/v1/embed"):
        assert api.post(path, content=body, headers={"Content-Type": "application/json"}).status_code == 422


def test_settings_in_an_address_are_checked_as_those_in_a_body(api: TestClient) -> None:
    image = {"content": picture("red", 99), "headers": {"Content-Type": "image/png"}}
    for query in ("kk=3", "k=3&k=4", "k=3&k.a=4", "filters.domains.a=1", "a.b.c.d.e.f.g.h.i.j.k=1", "k=NaN", "image=x"):
        assert api.post(f"/v1/demonstrations?{query}", **image).status_code == 422  # type: ignore[arg-type]
    assert api.post("/v1/search?k=3", json={"vector": [1.0] * 48}).status_code == 422
    wrong = api.post("/v1/search", content=b"a=1", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert "application/json, image/*" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"x"),
        ("multipart/form-data; boundary=b; charset=none", b"--b\r\n\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=b", b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--'),
        (
            "multipart/form-data; boundary=b; charset=none",
            b'--b\r\nContent-Disposition: form-data; name="k"\r\n\r\nx\r\n--b--',
        ),
        ("image/", b""),
        ("", b"{}"),
        (";;", b"{}"),
    ],
)
def test_forms_that_are_none_are_refused(api: TestClient, kind: str, body: bytes) -> None:
    answer = api.post("/v1/demonstrations", content=body, headers={"Content-Type": kind})
    assert answer.status_code in {400, 422}
    assert set(answer.json()["error"]) == {"code", "message", "request_id"}


@pytest.mark.parametrize("path", ["/v1/demonstrations:batch", "/v1/admin/reload"])
def test_an_image_has_no_place_where_there_is_no_single_query(api: TestClient, path: str) -> None:
    answer = api.post(path, content=picture("red", 1), headers={"Content-Type": "image/png"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


class Slow(Thumbnails):
    """Makes its callers wait until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, images: Any) -> Any:
        assert self.go.wait(10)
        return super().__call__(images)


def slow_api(bundle: IndexBundle, **limits: Any) -> tuple[Any, Slow]:
    encode = Slow()
    backend = LocalBackend(lambda _: opened(bundle, encode))
    backend.load()
    return make_app(backend, ServiceConfig(limits=LimitsConfig(**limits))), encode


def test_a_request_that_takes_too_long_is_answered_and_the_next_one_is_served(bundle: IndexBundle) -> None:
    made, encode = slow_api(bundle, timeout_s=0.05)
    api = TestClient(made, base_url=LOCAL)
    image = {"content": picture("red", 99), "headers": {"Content-Type": "image/png"}}
    encode.go.clear()
    threading.Timer(0.3, encode.go.set).start()
    late = api.post("/v1/embed", **image)  # type: ignore[arg-type]
    assert (late.status_code, late.json()["error"]["code"], "Retry-After" in late.headers) == (504, "timeout", False)
    assert api.get("/readyz").status_code == 200


def test_more_requests_than_may_wait_are_turned_away_and_probes_are_not(bundle: IndexBundle) -> None:
    made, encode = slow_api(bundle, max_in_flight=2)

    async def scene() -> list[int]:
        transport = httpx.ASGITransport(made)
        async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as asking:
            encode.go.clear()
            body = {"image": base64.b64encode(picture("red", 99)).decode()}
            first = [asyncio.create_task(asking.post("/v1/embed", json=body)) for _ in range(2)]
            await asyncio.sleep(0.05)
            turned_away = await asking.get("/v1/indexes")
            probe = await asking.get("/readyz")
            encode.go.set()
            served = [(await task).status_code for task in first]
            assert turned_away.headers["Retry-After"] == "1"
            return [*served, turned_away.status_code, probe.status_code, (await asking.get("/v1/indexes")).status_code]

    assert asyncio.run(scene()) == [200, 200, 503, 200, 200]


def test_limits_and_defaults_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"select.k must be at most limits.max_k"):
        ServiceConfig(limits=LimitsConfig(max_k=3))
    with pytest.raises(ValueError, match="max_pixels must lie in"):
        LimitsConfig(max_pixels=0)
    with pytest.raises(ValueError, match="max_pixels must lie in"):
        LimitsConfig(max_pixels=MAX_PIXELS + 1)  # none is decoded
