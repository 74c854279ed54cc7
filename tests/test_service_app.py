"""The application's answers, against the library called directly."""

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from served import LOCAL, Thumbnails, built, client, images, opened, picture

from viewfold.retrieval import FilterConfig, IndexBundle, Query, SelectConfig, explain, select
from viewfold.retrieval.prompt import bound_answers
from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import LimitsConfig, ServiceConfig
from viewfold.retrieval.service.local import LocalBackend
from viewfold.retrieval.service.local_work import embed


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


QUERY = picture("red", 99)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return built(tmp_path_factory.mktemp("served") / "bundle")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> IndexBundle:
    return built(tmp_path_factory.mktemp("other") / "bundle", encoder_id="thumbnails-5", count=9)


@pytest.fixture(scope="module")
def api(bundle: IndexBundle) -> TestClient:
    return client(bundle.folder)


def expected_query(bundle: IndexBundle, data: bytes = QUERY, **fields: Any) -> Query:
    (found,) = embed(opened(bundle), [data])
    assert not isinstance(found, Exception)
    return Query(**{"id": "query", "vector": found.vector, "sha256": found.sha256, "phash": found.phash, **fields})


def test_demonstrations_are_those_that_the_library_selects(api: TestClient, bundle: IndexBundle) -> None:
    answer = api.post("/v1/demonstrations", json={"image": encoded(QUERY), "k": 4, "order": "nearest_first"}).json()
    (demos,) = select(bundle, [expected_query(bundle)], SelectConfig(k=4, order="nearest_first"))
    assert answer["demonstrations"] == demos.to_dict()
    assert (answer["prompt"], answer["explained"]) == (None, None)
    assert len(answer["place"]) == 2


def test_an_image_a_data_uri_a_bare_body_a_form_and_its_vector_are_answered_alike(
    api: TestClient, bundle: IndexBundle
) -> None:
    query = expected_query(bundle)
    vector = {"vector": query.vector.tolist(), "sha256": query.sha256, "phash": query.phash}
    settings = {"k": 3, "filters": {"domains": ["paper"]}}
    address = '/v1/demonstrations?k=3&filters.domains=["paper"]'
    form = {"k": "3", "filters.domains": '["paper"]'}
    answers = [
        api.post("/v1/demonstrations", json={"image": encoded(QUERY), **settings}),
        api.post("/v1/demonstrations", json={"image": f"data:image/png;base64,{encoded(QUERY)}", **settings}),
        api.post(address, content=QUERY, headers={"Content-Type": "image/png"}),
        api.post("/v1/demonstrations", files={"image": ("q.png", QUERY, "image/png")}, data=form),
        api.post("/v1/demonstrations", json={**vector, **settings}),
    ]
    first = answers[0].json()
    assert [answer.json() for answer in answers] == [first] * 5
    assert {item["domain"] for item in first["demonstrations"]["items"]} == {"paper"}


def test_the_image_itself_and_its_group_are_never_among_the_demonstrations(api: TestClient) -> None:
    files = images()
    body = {"image": encoded(files["red/00"]), "group": "group-5", "k": 12}
    demos = api.post("/v1/demonstrations", json=body).json()["demonstrations"]
    assert demos["excluded"]["sha256"] == 1
    assert demos["excluded"]["group"] == 2
    assert len(demos["items"]) == 9
    named = api.post("/v1/demonstrations", json={"vector": [1.0] * 48, "id": "blue/02", "k": 12}).json()
    assert "blue/02" not in {item["key"] for item in named["demonstrations"]["items"]}


def test_a_batch_answers_each_query_as_it_would_be_alone_and_bad_images_by_their_errors(api: TestClient) -> None:
    queries: list[dict[str, Any]] = [
        {"image": encoded(picture("blue", 7)), "id": "a"},
        {"image": encoded(b"no image")},
        {"vector": [1.0] * 48, "id": "b"},
        {"image": "https://example.org/a.png"},
    ]
    answer = api.post("/v1/demonstrations:batch", json={"queries": queries, "k": 2})
    results = answer.json()["results"]
    assert answer.status_code == 200
    for number in (0, 2):
        assert results[number] == api.post("/v1/demonstrations", json={**queries[number], "k": 2}).json()
    assert results[1]["error"]["message"].startswith("queries.1: not an image")
    assert "not fetched" in results[3]["error"]["message"]
    assert results[1]["error"]["request_id"] == answer.headers["X-Request-Id"]


def test_messages_bind_each_demonstration_to_its_label(api: TestClient) -> None:
    body = {"image": encoded(QUERY), "k": 3, "words": {"red": "rouge"}, "budget": {"max_images": 3}}
    answer = api.post("/v1/messages", json=body).json()
    kept = [item for item in answer["demonstrations"]["items"] if item["key"] not in answer["prompt"]["dropped"]]
    words = ["rouge" if item["label"] == "red" else item["label"] for item in kept]
    assert bound_answers(answer["prompt"]["messages"]) == words
    assert answer["prompt"]["keys"] == [*(item["key"] for item in kept), "query"]
    assert answer["prompt"]["classes"] == ["blue", "green", "red"]
    whole = api.post("/v1/demonstrations", json={**body, "format": "openai"}).json()
    assert (whole["prompt"], whole["demonstrations"]) == (answer["prompt"], answer["demonstrations"])


def test_a_vector_has_no_image_to_show_to_a_model(api: TestClient) -> None:
    refused = api.post("/v1/messages", json={"vector": [1.0] * 48})
    assert (refused.status_code, "send an image" in refused.json()["error"]["message"]) == (422, True)


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/messages", {"image": encoded(QUERY), "format": "raw"}, "knows 'openai' alone"),
        ("/v1/messages", {"image": encoded(QUERY), "format": 5}, "knows 'openai' alone"),
        ("/v1/messages", {"image": encoded(QUERY), "explain": True}, "no place for it"),
        ("/v1/demonstrations:batch", {"queries": [{"image": encoded(QUERY)}], "explain": True}, "one query at a time"),
        ("/v1/messages", {"image": encoded(QUERY), "max_side": 4096}, "max_side must be at most 2048"),
    ],
)
def test_what_a_route_does_not_answer_is_refused(api: TestClient, path: str, body: dict[str, Any], says: str) -> None:
    answer = api.post(path, json=body)
    assert (answer.status_code, says in answer.json()["error"]["message"]) == (422, True)


def test_a_prompt_is_shrunk_to_what_the_service_gives_and_a_batch_beyond_it_is_refused(bundle: IndexBundle) -> None:
    whole = client(bundle.folder).post("/v1/messages", json={"image": encoded(QUERY), "k": 5}).json()["prompt"]["cost"]
    small = client(bundle.folder, limits=LimitsConfig(max_prompt_bytes=whole["bytes"] - 1))
    shrunk = small.post("/v1/messages", json={"image": encoded(QUERY), "k": 5}).json()["prompt"]
    assert shrunk["cost"]["bytes"] < whole["bytes"]
    assert "max_bytes" in shrunk["notes"][0]
    queries = [{"image": encoded(picture("blue", seed))} for seed in range(3)]
    alone = small.post("/v1/demonstrations:batch", json={"queries": queries[:1], "k": 5, "format": "openai"})
    assert alone.json()["results"][0]["prompt"]["cost"]["bytes"] < whole["bytes"]
    refused = small.post("/v1/demonstrations:batch", json={"queries": queries, "k": 5, "format": "openai"})
    assert (refused.status_code, "of the first 2 queries" in refused.json()["error"]["message"]) == (422, True)


def test_images_far_beyond_a_prompt_are_refused_before_all_of_them_are_made(bundle: IndexBundle) -> None:
    body = {"image": encoded(QUERY), "k": 12}
    answer = client(bundle.folder, limits=LimitsConfig(max_prompt_bytes=1024)).post("/v1/messages", json=body)
    assert (answer.status_code, "4 times what a prompt may" in answer.json()["error"]["message"]) == (422, True)
    tight = client(bundle.folder).post("/v1/messages", json={**body, "budget": {"max_bytes": 3000}}).json()["prompt"]
    assert tight["cost"]["bytes"] <= 3000
    assert tight["dropped"]


class Held(Thumbnails):
    """Makes its callers wait until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, images: Sequence[bytes]) -> Any:
        assert self.go.wait(10)
        return super().__call__(images)


def test_bodies_together_may_take_so_much_and_are_forgotten_when_they_are_answered(bundle: IndexBundle) -> None:
    encode = Held()
    backend = LocalBackend(lambda _: opened(bundle, encode))
    backend.load()
    encode.go.clear()
    size = len(QUERY)
    limits = LimitsConfig(max_body_bytes=2 * size, max_bytes_in_flight=2 * size)
    app = make_app(backend, ServiceConfig(limits=limits))

    async def scene() -> list[tuple[int, str]]:
        transport = httpx.ASGITransport(app)
        image: dict[str, Any] = {"content": QUERY, "headers": {"Content-Type": "image/png"}}
        async with httpx.AsyncClient(transport=transport, base_url=LOCAL) as asking:
            held = [asyncio.create_task(asking.post("/v1/embed", **image)) for _ in range(2)]
            await asyncio.sleep(0.05)
            turned_away = await asking.post("/v1/embed", **image)
            encode.go.set()
            answers = [turned_away, *[await task for task in held], await asking.post("/v1/embed", **image)]
            return [(answer.status_code, answer.headers.get("Retry-After", "")) for answer in answers]

    assert asyncio.run(scene()) == [(503, "1"), (200, ""), (200, ""), (200, "")]
    with pytest.raises(ValueError, match="max_bytes_in_flight must be at least max_body_bytes"):
        LimitsConfig(max_bytes_in_flight=1024)


def test_explained_is_what_the_library_explains(api: TestClient, bundle: IndexBundle) -> None:
    body = {"image": encoded(QUERY), "k": 2, "filters": {"not_domains": ["paper"]}, "explain": True}
    explained = api.post("/v1/demonstrations", json=body).json()["explained"]
    config = SelectConfig(k=2, filters=FilterConfig(not_domains=("paper",)))
    wanted = explain(bundle, expected_query(bundle), config)
    assert [(one["key"], one["stage"], one["reason"]) for one in explained] == wanted
    assert {one["domain"] for one in explained if one["stage"] == "filter"} == {"paper"}


def test_search_finds_what_the_index_finds_without_guards(api: TestClient, bundle: IndexBundle) -> None:
    data = images()["green/04"]
    queries = [{"image": encoded(data)}, {"vector": [1.0] * 48}]
    results = api.post("/v1/search", json={"queries": queries, "k": 3}).json()["results"]
    vectors = np.stack([expected_query(bundle, data).vector, np.ones(48)])
    hits = bundle.search(vectors, 3)
    assert [[hit["row"] for hit in result["hits"]] for result in results] == hits.rows.tolist()
    assert [[hit["score"] for hit in result["hits"]] for result in results] == hits.scores.tolist()
    assert results[0]["hits"][0]["key"] == "green/04"
    alone = api.post("/v1/search", json={"vector": [1.0] * 48, "k": 3}).json()["results"]
    assert alone[0]["hits"] == results[1]["hits"]


def test_embed_gives_vectors_hashes_and_the_place_on_the_map(api: TestClient, bundle: IndexBundle) -> None:
    files = images()
    body = {"images": [encoded(files["red/00"]), encoded(b"damaged")]}
    first, second = api.post("/v1/embed", json=body).json()["results"]
    query = expected_query(bundle, files["red/00"])
    assert (first["sha256"], first["phash"]) == (query.sha256, query.phash)
    np.testing.assert_array_equal(first["vector"], query.vector)
    record = api.get("/v1/records/red/00").json()
    assert first["place"] == pytest.approx([record["map_x"], record["map_y"]], abs=1e-5)
    assert "not an image" in second["error"]["message"]


def test_records_and_thumbnails_are_those_of_the_bundle(api: TestClient, bundle: IndexBundle) -> None:
    record = api.get("/v1/records/blue/02").json()
    known = bundle.records.slice(record["row"], 1).to_pylist()[0]
    assert record == {"row": record["row"], **{name: known[name] for name in known if not name.startswith("thumb")}}
    thumbnail = api.get("/v1/records/blue/02/thumbnail")
    assert (thumbnail.content, thumbnail.headers["content-type"]) == (bundle.thumbnail("blue/02"), "image/jpeg")
    for path in ("/v1/records/none", "/v1/records/none/thumbnail"):
        assert api.get(path).json()["error"]["code"] == "not_found"


def test_the_map_is_whole_or_a_sample_that_is_the_same_each_time(api: TestClient, bundle: IndexBundle) -> None:
    whole = api.get("/v1/map").json()
    assert (whole["key"], whole["x"]) == (bundle.column("key"), bundle.column("map_x"))
    sample = api.get("/v1/map?limit=5").json()
    assert (len(sample["key"]), sample["total"]) == (5, 12)
    assert set(sample["key"]) < set(whole["key"])
    assert api.get("/v1/map?limit=5").json() == sample


def test_the_index_says_what_it_is_and_what_may_be_asked(api: TestClient, bundle: IndexBundle) -> None:
    (index,) = api.get("/v1/indexes").json()["indexes"]
    assert index["pair"]["bundle"]["id"] == bundle.info.id
    assert (index["pair"]["labels"], index["pair"]["domains"]) == (["blue", "green", "red"], ["paper", "screen"])
    assert (index["defaults"]["k"], index["limits"]["max_k"]) == (7, 64)


def test_every_answer_names_its_request_and_its_pair(api: TestClient, bundle: IndexBundle) -> None:
    for path, status in [("/healthz", 200), ("/readyz", 200), ("/nowhere", 404), ("/v1/map?limit=0", 422)]:
        answer = api.get(path, headers={"X-Request-Id": "mine-1"})
        names = ("X-Request-Id", "X-Encoder-Id", "X-Bundle-Id")
        assert [answer.headers[name] for name in names] == ["mine-1", bundle.info.encoder_id, bundle.info.id]
        assert "total;dur=" in answer.headers["Server-Timing"]
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.status_code == status
    assert api.get("/healthz", headers={"X-Request-Id": "not one\tline"}).headers["X-Request-Id"] != "not one\tline"


def test_metrics_count_requests_by_declared_route_and_what_queries_are_like(api: TestClient) -> None:
    api.get("/v1/records/red/00")
    api.post("/v1/demonstrations", json={"image": encoded(QUERY), "k": 1})
    text = api.get("/metrics").text
    assert 'viewfold_requests_total{code="200",route="/v1/records/{key:path}"}' in text
    assert "viewfold_index_vectors 12.0" in text
    assert 'viewfold_query_domain_total{domain="paper"}' in text
    for name in ("request_seconds_bucket", "batch_size_bucket", "in_flight", "pair_info", "nearest_cosine_bucket"):
        assert f"viewfold_{name}" in text


def test_the_log_has_a_line_for_a_request_and_nothing_of_its_image(
    api: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    api.post("/v1/search", json={"image": encoded(QUERY), "k": 1}, headers={"X-Request-Id": "logged-1"})
    (line,) = capsys.readouterr().err.splitlines()
    assert '"request_id":"logged-1"' in line
    assert '"route":"/v1/search","status":200' in line
    assert encoded(QUERY)[:20] not in line


def test_the_log_says_why_a_request_failed(api: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    api.post("/v1/search", json={})
    api.get("/v1/map?limit=a")
    api.get("/healthz")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line.get("error") for line in lines] == ["invalid_input", "invalid_input", None]


def test_reloading_answers_with_the_new_pair_and_refusing_keeps_the_old_one(
    bundle: IndexBundle, other: IndexBundle, tmp_path: Path
) -> None:
    api = client(bundle.folder, reload_sources=(str(tmp_path), f"{other.folder.parent}/*"))
    loaded = api.post("/v1/admin/reload", json={"source": str(other.folder)})
    assert (loaded.json()["pair"]["bundle"]["id"], loaded.json()["changed"]) == (other.info.id, True)
    assert loaded.headers["X-Bundle-Id"] == other.info.id
    refused = api.post("/v1/admin/reload", json={"source": str(tmp_path)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_input")
    assert api.get("/readyz").headers["X-Bundle-Id"] == other.info.id
    for elsewhere in ("/etc", f"{other.folder}/../../{other.folder.name}"):
        answer = api.post("/v1/admin/reload", json={"source": elsewhere})
        assert (answer.status_code, "may open" in answer.json()["error"]["message"]) == (422, True)
    assert api.post("/v1/admin/reload").json()["changed"] is True
