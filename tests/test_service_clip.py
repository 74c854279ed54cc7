"""clip-retrieval's interface: what its own client and front end ask for, and the client itself where it is installed.

The environment variable CLIP_RETRIEVAL_PYTHON names a Python with the package `clip-retrieval`, which wants other
versions of numpy and pyarrow than this one and therefore lives in an environment of its own.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from served import LOCAL, SIDE, backend, built, images, serving, vector_of
from starlette.testclient import TestClient

from viewfold.retrieval.service.app import make_app
from viewfold.retrieval.service.config import ServiceConfig

PEER = "CLIP_RETRIEVAL_PYTHON"
PYTHON = os.environ.get(PEER, sys.executable if find_spec("clip_retrieval") else "")
REASON = f"{PEER} names no Python with clip-retrieval"

ASK = """
import json, sys
from clip_retrieval.clip_client import ClipClient, Modality
url, image, vector = sys.argv[1:]
plain = ClipClient(url=url, indice_name="viewfold", num_images=5)
every = ClipClient(url=url, indice_name="viewfold", num_images=5, deduplicate=False, modality=Modality.IMAGE)
print(json.dumps({
    "image": plain.query(image=image),
    "vector": every.query(embedding_input=json.loads(vector)),
    "text": plain.query(text="two dots"),
    "url": plain.query(image="http://127.0.0.1:9/picture.png"),
}))
"""


KEYS, FILES = zip(*sorted(images().items()), strict=True)
ROW = 7
LABEL = KEYS[ROW].partition("/")[0]
DIM = 3 * SIDE**2


def numbers(image: bytes) -> list[float]:
    return [float(value) for value in vector_of(image)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clip") / "bundle"
    built(made)
    return made


@pytest.fixture(scope="module")
def http(folder: Path) -> Iterator[TestClient]:
    with TestClient(make_app(backend(folder), ServiceConfig()), base_url=LOCAL) as client:
        yield client


def knn(http: TestClient, **body: Any) -> Any:
    # Without a Content-Type, as `ClipClient` asks.
    return http.post("/knn-service", content=json.dumps({"modality": "image", "num_images": 4, **body}))


def test_the_nearest_come_first_with_their_captions(http: TestClient) -> None:
    found = knn(http, embedding_input=numbers(FILES[ROW])).json()
    assert [hit["similarity"] for hit in found] == sorted((hit["similarity"] for hit in found), reverse=True)
    assert found[0]["id"] == ROW
    assert found[0]["similarity"] == 1.0
    assert found[0]["caption"] == LABEL
    assert http.get(found[0]["url"]).content.startswith(b"\xff\xd8")
    image = base64.b64encode(FILES[ROW]).decode()
    assert [hit["id"] for hit in knn(http, image=image).json()] == [hit["id"] for hit in found]


def test_what_is_behind_num_images_has_an_id_and_a_similarity(http: TestClient) -> None:
    found = knn(http, embedding_input=numbers(FILES[ROW]), num_result_ids=6).json()
    assert len(found) == 6
    assert [set(hit) for hit in found[4:]] == [{"id", "similarity"}] * 2


def test_images_that_look_the_same_are_shown_once_where_that_is_asked_for(tmp_path: Path) -> None:
    built(tmp_path / "twins", files=dict(zip("abcd", (FILES[0], FILES[1], FILES[0], FILES[2]), strict=True)))
    with TestClient(make_app(backend(tmp_path / "twins"), ServiceConfig()), base_url=LOCAL) as http:
        every, once = (
            [hit["id"] for hit in knn(http, embedding_input=numbers(FILES[0]), deduplicate=asked).json()]
            for asked in (False, True)
        )
    assert every[:2] == [0, 2]
    assert once == [row for row in every if row != 2]


def test_records_and_names_are_told(http: TestClient) -> None:
    assert http.get("/indices-list").json() == ["viewfold"]
    found = http.post("/metadata", content=json.dumps({"indice_name": "viewfold", "ids": [3, 0]})).json()
    assert [(one["id"], one["metadata"]["key"]) for one in found] == [(3, KEYS[3]), (0, KEYS[0])]
    assert http.post("/metadata", json={"ids": []}).json() == []
    table = http.get("/metrics-summary")
    assert table.headers["content-type"].startswith("text/plain")
    assert "/metadata" in table.text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"text": "two dots"}, "takes images alone"),
        ({"embedding_input": [1.0], "modality": "text"}, "takes images alone"),
        ({"image_url": "http://127.0.0.1:9/a.png"}, "not fetched"),
        ({"embedding_input": [1.0, 2.0]}, f"{DIM} numbers"),
        ({"embedding_input": [0.0] * DIM}, "zero"),
        ({"embedding_input": ["a"] * DIM}, f"{DIM} numbers"),
        ({"image": "no base64"}, "base64"),
        ({"image": base64.b64encode(b"no image").decode()}, "not an image"),
        ({}, "send image"),
        ({"embedding_input": [1.0] * DIM, "num_images": 1000}, "limits.max_k"),
        ({"embedding_input": [1.0] * DIM, "num_images": 0}, "limits.max_k"),
        ({"embedding_input": [1.0] * DIM, "indice_name": "laion5B"}, "unknown indice_name"),
        ({"embedding_input": [1.0] * DIM, "num_imagse": 3}, "did you mean 'num_images'"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    http: TestClient, body: dict[str, Any], reason: str
) -> None:
    answer = knn(http, **body)
    assert answer.status_code == 422, answer.text
    assert reason in answer.json()["error"]["message"]


def test_ids_that_are_none_are_refused(http: TestClient) -> None:
    for ids in ([-1], [len(KEYS)], [2**70], ["a"], None, [0] * 1001):
        assert http.post("/metadata", json={"ids": ids}).status_code == 422


@pytest.mark.heavy
@pytest.mark.slow
@pytest.mark.skipif(not PYTHON, reason=REASON)
def test_the_clients_own_code_works_as_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "query.png").write_bytes(FILES[ROW])
    with serving(backend(folder)) as url:
        words = [f"{url}/knn-service", str(tmp_path / "query.png"), json.dumps(numbers(FILES[ROW]))]
        run = subprocess.run([PYTHON, "-W", "ignore", "-c", ASK, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["vector"][0]["id"] == told["image"][0]["id"] == ROW
    assert told["vector"][0]["caption"] == told["image"][0]["caption"] == LABEL
    assert len(told["vector"]) == 5
    assert "takes images alone" in told["text"]["error"]["message"]
    assert "not fetched" in told["url"]["error"]["message"]
