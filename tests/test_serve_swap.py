"""Another pair of encoder and index takes the place of the one that answers: nothing fails, nothing is mixed."""

import base64
import http.client
import itertools
import json
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from serve_process import IMAGE_PX, Service, question, service, write_pair
from servers import wait_until
from tiny import encode

from viewfold.jobs.registry import Registry
from viewfold.jobs.serve_open import open_source
from viewfold.retrieval import Query, SelectConfig, select
from viewfold.retrieval.service.backend import pair_id

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

K, QUESTIONS, CLIENTS, SWAPS, BETWEEN = 3, 10, 4, 5, 400
ROWS = 20_000  # 20 MB of vectors: a pair that is not let go of shows in what the process holds


@dataclass(frozen=True)
class Expected:
    """What a pair answers."""

    headers: tuple[str, str, str]
    """Pair, encoder, bundle."""
    keys: list[list[str]]
    """For each question the demonstrations."""
    vector: list[float]
    """Of the picture."""


@dataclass
class Tally:
    """What all clients saw."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    pairs: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, pair: str, complaint: str | None) -> None:
        with self.lock:
            self.pairs[pair] += 1
            if complaint is not None:
                self.wrong.append(complaint)


def picture() -> bytes:
    pixels = np.random.default_rng(5).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "PNG")


def expected(run: Path) -> Expected:
    """What a pair must answer, worked out here."""
    opened = open_source(str(run), run.parent)
    bundle = opened.bundle
    queries = [Query(f"q{number}", question(number, bundle.info.dim)) for number in range(QUESTIONS)]
    sets = select(bundle, queries, SelectConfig(k=K))
    (vector,) = opened.encode([picture()])
    assert isinstance(vector, np.ndarray)
    ids = (pair_id(opened.encode.id, bundle.info.id), opened.encode.id, bundle.info.id)
    return Expected(ids, [[item.key for item in demos.items] for demos in sets], vector.tolist())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two pairs, one whose index is damaged, and one whose index belongs to another encoder."""
    folder = tmp_path_factory.mktemp("runs")
    names = {name: folder / name for name in ("first", "second", "damaged", "mixed")}
    for seed, name in enumerate(("first", "second")):
        write_pair(names[name], seed=seed, rows=ROWS)
    for name in ("damaged", "mixed"):
        shutil.copytree(names["second"], names[name])
    with (names["damaged"] / "index" / "bundle" / "index.faiss").open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged")
    shutil.rmtree(names["mixed"] / "pretrain")
    shutil.copytree(names["first"] / "pretrain", names["mixed"] / "pretrain")
    return names


@pytest.fixture(scope="module")
def running(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    words, log = ['service.reload_sources=["*"]'], tmp_path_factory.mktemp("log") / "log.txt"
    with service(runs["first"], words, log=log) as found:
        yield found


class Client:
    """One connection that is kept."""

    def __init__(self, url: str) -> None:
        self.connection = http.client.HTTPConnection(str(urlsplit(url).netloc), timeout=60)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, tuple[str, str, str], dict[str, Any]]:
        """Status; ids of pair, encoder and bundle; what was answered."""
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        data = json.loads(answer.read())
        pair, encoder, bundle = (answer.headers.get(f"X-{name}-Id", "") for name in ("Pair", "Encoder", "Bundle"))
        return answer.status, (pair, encoder, bundle), data


def keep_asking(url: str, known: dict[str, Expected], tally: Tally, stop: threading.Event) -> None:
    """Ask until told to stop: nine questions by vector, one by image, and hold each answer against its own pair's."""
    image = base64.b64encode(picture()).decode()
    pairs = {pair.headers[0]: pair for pair in known.values()}
    dim = len(next(iter(pairs.values())).vector)
    vectors = [question(number, dim).tolist() for number in range(QUESTIONS)]
    with Client(url) as client:
        for number in itertools.cycle(range(QUESTIONS)):
            if stop.is_set():
                return
            if number == QUESTIONS - 1:
                status, headers, answer = client.post("/v1/embed", {"image": image})
            else:
                status, headers, answer = client.post("/v1/demonstrations", {"vector": vectors[number], "k": K})
            pair = pairs.get(headers[0])
            if status == 200 and pair is not None:
                tally.note(headers[0], compared(pair, number, headers, answer))
            else:
                tally.note(headers[0], f"{status}: {answer}")


def compared(pair: Expected, number: int, headers: tuple[str, str, str], answer: dict[str, Any]) -> str | None:
    """What is wrong with an answer that says that it is of `pair`."""
    if headers != pair.headers:
        return f"ids of several pairs: {headers}"
    if number == QUESTIONS - 1:
        vector = answer["results"][0]["vector"]
        return None if np.allclose(vector, pair.vector, rtol=1e-3, atol=1e-4) else "vector of another encoder"
    found = answer["demonstrations"]
    if (found["encoder_id"], found["bundle_id"]) != pair.headers[1:]:
        return f"the body names another pair than the headers: {found}"
    return None if [item["key"] for item in found["items"]] == pair.keys[number] else f"of another index: {found}"


def swap(client: Client, run: Path) -> None:
    status, _, answer = client.post("/v1/admin/reload", {"source": str(run)})
    assert status == 200, answer


def asked(tally: Tally, at_least: int) -> None:
    wait_until(lambda: sum(tally.pairs.values()) >= at_least, seconds=300)


def test_no_request_fails_or_mixes_pairs_while_they_are_swapped_and_no_memory_stays_behind(
    runs: dict[str, Path], running: Service
) -> None:
    known = {name: expected(runs[name]) for name in ("first", "second")}
    tally, stop = Tally(), threading.Event()
    clients = [
        threading.Thread(target=keep_asking, args=(running.url, known, tally, stop), daemon=True)
        for _ in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    try:
        with Client(running.url) as admin:
            for name in ("second", "first") * 2:  # the allocator's and torch's own growth comes with the first ones
                asked(tally, sum(tally.pairs.values()) + BETWEEN // 2)
                swap(admin, runs[name])
            asked(tally, sum(tally.pairs.values()) + BETWEEN // 2)
            before, start = running.resident_bytes(), sum(tally.pairs.values())
            for number in range(SWAPS):
                asked(tally, start + (number + 1) * BETWEEN)
                swap(admin, runs[("second", "first")[number % 2]])
            asked(tally, start + (SWAPS + 1) * BETWEEN)
    finally:
        stop.set()
        for client in clients:
            client.join(60)
    assert tally.wrong == []
    assert sum(tally.pairs.values()) >= 2000
    assert min(tally.pairs[pair.headers[0]] for pair in known.values()) > BETWEEN
    assert set(tally.pairs) == {pair.headers[0] for pair in known.values()}
    wait_until(lambda: running.resident_bytes() <= 1.1 * before, seconds=60)  # the last one is let go a moment later


@pytest.mark.parametrize(
    ("name", "reason"), [("damaged", "index.faiss"), ("mixed", "encoder"), ("nowhere", "not a run folder")]
)
def test_what_cannot_be_served_is_refused_and_the_old_pair_answers_on(
    name: str, reason: str, runs: dict[str, Path], running: Service
) -> None:
    ask = {"vector": question(0, 256).tolist(), "k": 2}
    with Client(running.url) as client:
        swap(client, runs["first"])
        before = client.post("/v1/search", ask)
        assert before[0] == 200
        status, _, answer = client.post("/v1/admin/reload", {"source": str(runs.get(name, Path("nowhere")))})
        assert status == 422
        assert reason in answer["error"]["message"]
        assert client.post("/v1/search", ask) == before


def test_an_alias_that_moves_in_the_registry_is_followed_and_a_bad_version_is_not(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    versions = {name: registered(registry, runs[name]) for name in ("damaged", "second", "first")}
    client, source, log = registry.client, "models:/shapes@champion", tmp_path / "log.txt"
    first, second = (expected(runs[name]).headers for name in ("first", "second"))
    words = ["--home", str(tmp_path), "watch_s=0.2"]
    with service(source, words, log=log) as running, Client(running.url) as asking:
        assert served(asking) == first
        client.set_registered_model_alias("shapes", "champion", versions["damaged"])
        wait_until(lambda: '"refused"' in log.read_text(encoding="utf-8"), seconds=60)
        assert served(asking) == first
        client.set_registered_model_alias("shapes", "champion", versions["second"])
        wait_until(lambda: served(asking) == second, seconds=60)
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if '"watch"' in line]
    assert [(event["outcome"], event["version"]) for event in events] == [
        ("refused", versions["damaged"]),
        ("loaded", versions["second"]),
    ]


def registered(registry: Registry, run: Path) -> str:
    """The version of a run's pair, which `champion` then names."""
    tags = {"bundle": str(run / "index" / "bundle")}
    with registry.run("serve", run.name, params={}, tags={}) as tracked:
        files = {"encoder": run / "pretrain" / "encoder"}
        return registry.register("shapes", files, dim=256, run=tracked, tags=tags, alias="champion")


def served(client: Client) -> tuple[str, str, str]:
    status, headers, _ = client.post("/v1/search", {"vector": question(0, 256).tolist(), "k": 1})
    assert status == 200
    return headers
