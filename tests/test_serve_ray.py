"""The service on Ray Serve: a request is answered by one pair through all deployments, while pairs change in place."""

import asyncio
import base64
import itertools
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pools import pool
from servers import free_port, wait_until
from tiny import encode

from viewfold.config import parse
from viewfold.errors import ArtifactMismatch, InvalidInput
from viewfold.jobs.serve_open import open_source
from viewfold.jobs.serve_ray import RayBackend, RayServeConfig, Served
from viewfold.jobs.serve_ray_open import load_encoders, locate
from viewfold.jobs.serve_ray_remote import serve
from viewfold.jobs.serve_ray_run import serve_config, serve_on_ray
from viewfold.jobs.serve_ray_ticket import Held, Ticket
from viewfold.retrieval import Query, SelectConfig, build_bundle, select
from viewfold.retrieval.service.backend import pair_id
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

ROWS, K, SWAPS, CLIENTS, BETWEEN = 1500, 4, 5, 2, 40


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder, and what its pair answers."""

    folder: Path
    headers: tuple[str, str, str]
    keys: list[list[str]]
    """Of the demonstrations for each of `questions`."""
    questions: list[list[float]]
    """Vectors."""


def write_run(folder: Path, seed: int, factory: str) -> Run:
    """An encoder of random weights and an index of random vectors, many of which tie."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = Encoder(EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=16))).eval()
    identity = save_encoder(drawn, folder / "pretrain" / "encoder", lineage={})
    dim = drawn.encode(torch.zeros(1, 3, 16, 16, dtype=torch.uint8)).invariant.shape[1]
    vectors = np.random.default_rng(seed).normal(size=(ROWS, dim)).astype(np.float32)
    vectors[ROWS // 2 :: 3] = vectors[: ROWS // 2 : 3]
    labels = [str(row % 7) for row in range(ROWS)]
    bundle = build_bundle(
        pool(vectors, encoder_id=identity, label=labels), folder / "index" / "bundle", factory=factory
    )
    questions: list[list[float]] = np.random.default_rng(9).normal(size=(8, dim)).round(4).tolist()
    asked = [Query("", np.array(vector)) for vector in questions]
    keys = [[item.key for item in demos.items] for demos in select(bundle, asked, SelectConfig(k=K))]
    return Run(folder, (pair_id(identity, bundle.info.id), identity, bundle.info.id), keys, questions)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "a", 0, "Flat"), write_run(folder / "b", 1, "IVF16,Flat")]


@dataclass(frozen=True)
class Deployed:
    """The service, deployed from its config file."""

    url: str
    config: dict[str, Any]

    def change(self, source: Path) -> None:
        """Deploy the file again with another source."""
        app = self.config["applications"][0]
        app["deployments"][0]["user_config"]["source"] = str(source)
        deploy(self.config)

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any], tuple[str, ...]]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **headers}, method="POST" if data else "GET"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                told = tuple(answer.headers.get(f"X-{name}-Id") for name in ("Pair", "Encoder", "Bundle"))
                return answer.status, json.load(answer), told
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), ()


def deploy(config: dict[str, Any]) -> None:
    """What `serve deploy` has the cluster do, which needs a dashboard; ends when all of it runs."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate(config))
    wait_until(_runs, seconds=400)


def _runs() -> bool:
    time.sleep(0.3)  # to answer this takes time that the replicas need to start
    return bool(serve.status().applications["viewfold"].status == "RUNNING")


@pytest.fixture(scope="module")
def deployed(runs: list[Run], ray_local: None) -> Iterator[Deployed]:
    port = free_port()
    config = yaml.safe_load(
        serve_config(
            RayServeConfig(
                source=str(runs[0].folder),
                parts=2,
                max_replicas=1,
                replica_cpus=0.1,
                service=ServiceConfig(port=port),
            )
        )
    )
    serve.start(http_options=config["http_options"], logging_config={"log_level": "ERROR"})
    deploy(config)
    yield Deployed(f"http://127.0.0.1:{port}", config)
    serve.shutdown()  # type: ignore[no-untyped-call]


def _reached(seen: Counter[str], pair: str, enough: int) -> bool:
    return seen[pair] >= enough


def counted(deployed: Deployed, result: str) -> float:
    """Pairs loaded or refused by the replica since it started."""
    with urllib.request.urlopen(f"{deployed.url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    name = f'viewfold_reload_total{{result="{result}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


def test_parts_on_a_cluster_answer_as_one_index_in_one_process(deployed: Deployed, runs: list[Run]) -> None:
    for question, keys in zip(runs[0].questions, runs[0].keys, strict=True):
        status, answer, told = deployed.ask("/v1/demonstrations", {"vector": question, "k": K})
        assert (status, told) == (200, runs[0].headers)
        assert [item["key"] for item in answer["demonstrations"]["items"]] == keys
    picture = encode(Image.new("RGB", (20, 30), (200, 30, 90)), "PNG")
    local = open_source(str(runs[0].folder), Path("runs"))
    status, answer, _ = deployed.ask("/v1/embed", {"image": base64.b64encode(picture).decode()})
    assert status == 200
    (vector,) = local.encode([picture])
    assert not isinstance(vector, InvalidInput)
    np.testing.assert_allclose(answer["results"][0]["vector"], vector, atol=1e-5)
    status, answer, _ = deployed.ask("/v1/demonstrations", {"image": base64.b64encode(picture[:60]).decode()})
    assert (status, answer["error"]["code"]) == (422, "invalid_input")


def test_requests_fail_in_no_swap_and_none_is_answered_by_two_pairs(deployed: Deployed, runs: list[Run]) -> None:
    by_pair = {run.headers[0]: run for run in runs}
    stop, seen, wrong = threading.Event(), Counter[str](), list[Any]()

    def asking(number: int) -> None:
        for count in itertools.count(number):
            if stop.is_set():
                return
            place = count % len(runs[0].questions)
            status, answer, told = deployed.ask("/v1/demonstrations", {"vector": runs[0].questions[place], "k": K})
            run = by_pair.get(told[0]) if told else None
            keys = [item["key"] for item in answer.get("demonstrations", {"items": []})["items"]]
            if status != 200 or run is None or told != run.headers or keys != run.keys[place]:
                wrong.append((status, told, answer))
            seen[told[0] if told else "none"] += 1

    loaded = counted(deployed, "loaded")
    clients = [threading.Thread(target=asking, args=(number,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    for swap in range(SWAPS):
        pair = runs[(swap + 1) % 2].headers[0]
        enough = seen[pair] + BETWEEN
        deployed.change(by_pair[pair].folder)
        wait_until(partial(_reached, seen, pair, enough), seconds=120)
    stop.set()
    for client in clients:
        client.join()
    assert wrong == []
    assert counted(deployed, "loaded") == loaded + SWAPS  # by the one replica that there was


def test_a_damaged_pair_is_refused_and_the_one_before_stays(
    deployed: Deployed, runs: list[Run], tmp_path: Path
) -> None:
    _, _, told = deployed.ask("/v1/indexes")
    bad = shutil.copytree(runs[0].folder, tmp_path / "bad")  # of a pair that the replicas hold
    with (bad / "index" / "bundle" / "index.faiss").open("r+b") as file:
        file.seek(500)
        file.write(b"\x01\x02\x03")
    refused = counted(deployed, "refused")
    deployed.change(bad)
    wait_until(lambda: counted(deployed, "refused") > refused, seconds=120)
    assert deployed.ask("/v1/indexes")[2] == told
    assert deployed.ask("/v1/demonstrations", {"vector": runs[0].questions[0], "k": K})[0] == 200


def test_a_reload_looks_at_the_deployed_source_again_and_takes_no_other(deployed: Deployed, runs: list[Run]) -> None:
    status, answer, _ = deployed.ask("/v1/admin/reload", {"source": "elsewhere"})
    assert status == 422
    assert "another user_config.source" in answer["error"]["message"]
    assert deployed.ask("/v1/admin/reload", {})[0] == 200


def test_a_ticket_names_one_pair_and_what_is_not_that_pair_is_refused(runs: list[Run]) -> None:
    first, second = (locate(str(run.folder), Path("runs"), None) for run in runs)
    assert [first.id, second.id] == [run.headers[0] for run in runs]
    assert load_encoders(first)["own"].id == first.encoder_id
    with pytest.raises(ArtifactMismatch, match=first.encoder_id):
        load_encoders(replace(first, encoder=second.encoder))
    for nowhere, why in (("nowhere", "not a run folder"), ("x" * 5000, "File name too long")):
        with pytest.raises(InvalidInput, match=why):
            locate(nowhere, Path("runs"), None)


def test_the_last_two_pairs_are_held_and_an_older_one_is_opened_again(runs: list[Run]) -> None:
    first = locate(str(runs[0].folder), Path("runs"), None)
    tickets = [replace(first, bundle_id=name) for name in "abc"]
    opened: list[str] = []

    def opener(ticket: Ticket) -> str:
        opened.append(ticket.bundle_id)
        return ticket.bundle_id

    held = Held(opener)
    assert [held.of(tickets[number]) for number in (0, 1, 0, 1, 2, 1, 2, 0)] == list("ababcbca")
    assert opened == list("abca")
    held.of(replace(tickets[0], bundle="a copy"))  # which may be damaged
    assert opened == list("abcaa")
    opened.clear()
    back = Held(opener)
    assert [back.of(tickets[number]) for number in (0, 1, 0, 2, 0)] == list("abaca")
    assert opened == list("abc"), "what answers again after a roll back stays open"


def test_keys_that_replicas_would_not_know_of_are_refused(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIEWFOLD_SERVICE_KEYS", "a-key-of-sixteen-or-more")
    with pytest.raises(InvalidInput, match="--keys FILE"):  # before Ray starts
        serve_on_ray(RayServeConfig(source=str(runs[0].folder)))


def test_the_config_file_says_all_that_is_set(runs: list[Run]) -> None:
    words = ("demo:emoji", "pack:emoji/emoji", "s3://bucket/a.tar")
    config = RayServeConfig(source="models:/birds@champion", parts=3, shards=words, service=ServiceConfig(port=8123))
    found = yaml.safe_load(serve_config(config))
    (app,) = found["applications"]
    served = parse(Served, app["deployments"][0]["user_config"])
    again = parse(RayServeConfig, {**app["args"], "source": served.source})
    assert again == replace(config, home=Path("runs").absolute())
    assert found["http_options"]["port"] == 8123
    with pytest.raises(InvalidInput, match="unknown key 'sources'"):
        parse(Served, {"source": "x", "sources": "y"})
    with pytest.raises(InvalidInput, match=r"reload_sources has no effect on Ray.* set user_config.source of Service"):
        parse(RayServeConfig, {"source": "x", "service": {"reload_sources": ["*"]}})


def test_a_reload_that_some_replicas_refuse_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replicas:
        """In place of Ray's handle: what the replicas answer, of which one has just gone and one refuses."""

        def broadcast(self, _: str) -> "Replicas":
            return self

        async def results_async(self, *, return_exceptions: bool) -> list[Any]:
            assert return_exceptions
            return [None, RuntimeError("gone"), ArtifactMismatch("made for another encoder")]

    async def opened(_: RayBackend) -> None:
        """This replica has the new pair."""

    monkeypatch.setattr(serve, "get_deployment_handle", lambda _: Replicas())
    monkeypatch.setattr(RayBackend, "look_again", opened)
    backend = RayBackend(RayServeConfig(source="run"), None, [])
    with pytest.raises(InvalidInput, match="1 of 3 replicas go on with the pair before: made for another encoder"):
        asyncio.run(backend.reload(None))
