"""Versions, aliases and tags on a real MLflow server that takes artifacts over HTTP, which another program then serves.

One server for the whole file: it has no log-in, and its clients are told no folder, only `mlflow-artifacts:`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from mlflow_server import model_server, tracking_server
from serve_process import IMAGE_PX
from servers import unanswered

from viewfold.errors import InvalidInput, one_line
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry, VersionFacts

pytestmark = [pytest.mark.heavy, pytest.mark.slow]
DIM = 256


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address."""
    with tracking_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def registry(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A client of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        return Registry(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder folder."""
    import torch

    from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder

    torch.manual_seed(0)
    drawn = Encoder(EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=IMAGE_PX))).eval()
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    save_encoder(drawn, folder, lineage={})
    return folder


def registered(registry: Registry, encoder: Path, *, run: str, alias: str) -> str:
    """The version of `shapes` that this run registers."""
    tags = {"encoder_id": "e", "bundle_id": "b", "run": run}
    with registry.run("viewfold", f"{run}/register", params={}, tags=tags) as tracked:
        return registry.register("shapes", {"encoder": encoder}, dim=DIM, run=tracked, tags=tags, alias=alias)


@pytest.fixture(scope="module")
def version(registry: Registry, encoder: Path) -> str:
    """The first version, which is the champion."""
    return registered(registry, encoder, run="first", alias=CHAMPION)


def test_what_was_registered_twice_is_one_version(registry: Registry, encoder: Path, version: str) -> None:
    assert registered(registry, encoder, run="first", alias=CHALLENGER) == version
    facts = registry.facts(f"models:/shapes/{version}")
    assert facts.aliases == (CHALLENGER, CHAMPION)
    assert facts == registry.facts("models:/shapes@challenger") == registry.find("shapes", CHAMPION)
    assert facts.tags == {"encoder_id": "e", "bundle_id": "b", "run": "first"}
    assert timedelta(0) < datetime.now(UTC) - facts.created < timedelta(hours=1)
    registry.drop("shapes", CHALLENGER)
    assert registry.find("shapes", CHALLENGER) is None


def test_aliases_and_tags_move_and_go(registry: Registry, encoder: Path, version: str) -> None:
    second = registered(registry, encoder, run="second", alias=CHALLENGER)
    registry.tag("shapes", second, {"validation_status": "passed", "replaces": version})
    registry.tag("shapes", second, {"validation_status": "failed"})
    newest, oldest = registry.versions("shapes")
    assert [(one.version, one.aliases) for one in (newest, oldest)] == [(second, (CHALLENGER,)), (version, (CHAMPION,))]
    assert newest.tags["validation_status"] == "failed"
    assert newest.tags["replaces"] == version
    registry.point("shapes", CHAMPION, second)
    assert [one.aliases for one in registry.versions("shapes")] == [(CHALLENGER, CHAMPION), ()]
    registry.point("shapes", CHAMPION, version)
    for _ in range(2):
        registry.drop("shapes", CHALLENGER)
    assert champion(registry).version == version


def champion(registry: Registry) -> VersionFacts:
    """Of `shapes`."""
    found = registry.find("shapes", CHAMPION)
    assert found is not None
    return found


def test_what_is_not_there(registry: Registry, version: str) -> None:
    assert registry.find("nothing", CHAMPION) is None
    assert registry.find("shapes", "nobody") is None
    assert registry.versions("nothing") == []
    registry.drop("nothing", CHAMPION)
    for call in (
        lambda: registry.facts("models:/shapes/99"),
        lambda: registry.facts("models:/shapes@nobody"),
        lambda: registry.tag("shapes", "99", {"a": "b"}),
        lambda: registry.point("shapes", CHAMPION, "99"),
    ):
        with pytest.raises(InvalidInput, match="not found"):
            call()
    assert champion(registry).version == version


@pytest.fixture
def gone() -> Iterator[str]:
    """An address at which nobody listens."""
    with unanswered() as address:
        yield address


def test_a_server_that_is_gone_is_one_line(gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@{gone}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lost = Registry(tmp_path)
    for call in (
        lambda: lost.find("shapes", CHAMPION),
        lambda: lost.versions("shapes"),
        lambda: lost.facts("models:/shapes@champion"),
        lambda: lost.point("shapes", CHAMPION, "1"),
        lambda: lost.drop("shapes", CHAMPION),
        lambda: lost.run("viewfold", "r", params={}, tags={}).__enter__(),
    ):
        with pytest.raises(InvalidInput, match="does not answer") as caught:
            call()
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_encoder_comes_back_over_http(registry: Registry, encoder: Path, version: str) -> None:
    found = registry.resolve("models:/shapes@champion")
    assert found.version == version
    for file in encoder.iterdir():
        assert (found.encoder / file.name).read_bytes() == file.read_bytes()
    assert found.encoder.is_relative_to(registry.home / "mlmodels" / "shapes")
    before = {path: path.stat().st_ino for path in found.encoder.iterdir()}
    again = registry.resolve(f"models:/shapes/{version}").encoder
    assert {path: path.stat().st_ino for path in again.iterdir()} == before  # brought once
    run_id = registry.client.get_model_version("shapes", version).run_id
    assert run_id is not None
    run = registry.client.get_run(run_id)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")


def test_the_model_holds_no_pickle(registry: Registry, version: str) -> None:
    root = registry.resolve("models:/shapes@champion").encoder.parents[1]
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {"MLmodel", "pyfunc_encoder.py", "encoder.safetensors"} <= {path.name for path in files}
    for path in files:
        head = path.read_bytes()[:4]
        # A pickle of protocol 2 on begins with 0x80, and torch's and joblib's own files are archives or compressed.
        assert head[:1] != b"\x80", path
        assert head[:2] not in (b"PK", b"\x1f\x8b", b"\x78\x9c"), path
    assert "python_model" not in (root / "MLmodel").read_text()


def test_mlflow_serves_it_for_any_batch_size(uri: str, encoder: Path, version: str, tmp_path: Path) -> None:
    import numpy as np
    import torch

    from viewfold.ssl.encoder import load_encoder

    images = np.random.default_rng(0).integers(0, 256, (3, IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
    expected = load_encoder(encoder).encode(torch.from_numpy(images).permute(0, 3, 1, 2)).invariant.numpy()
    with model_server("models:/shapes@champion", uri, tmp_path / "log.txt") as url:
        for batch in (1, 3):
            body = json.dumps({"inputs": images[:batch].tolist()}).encode()
            request = Request(f"{url}/invocations", data=body, headers={"Content-Type": "application/json"})
            with urlopen(request, timeout=60) as answer:
                predictions = np.array(json.loads(answer.read())["predictions"])
            np.testing.assert_allclose(predictions, expected[:batch], rtol=1e-4, atol=1e-5)


def test_a_tracked_run_reaches_the_server_with_its_files(registry: Registry, tmp_path: Path) -> None:
    from viewfold.jobs.courier import sync
    from viewfold.jobs.tracking import track

    card = tmp_path / "card.json"
    card.write_text("{}")
    with track(registry, tmp_path, "over-http", params={}, tags={}, files={"card": [card]}) as box:
        for step in (1, 2):
            box.log_row({"step": step, "loss": 1 / step})
    sync([tmp_path])  # what a busy machine did not get sent in time
    client = registry.client
    experiment = client.get_experiment_by_name("viewfold")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'over-http'")
    assert [one.step for one in client.get_metric_history(run.info.run_id, "loss")] == [1, 2]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "card")] == ["card/card.json"]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of this machine's disk alone."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Registry(tmp_path / "local")


def files_of(folder: Path) -> list[str]:
    """All files of a folder but the database."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and path.name != "mlflow.db"]


def test_a_model_that_a_disk_cannot_hold_is_refused_before_a_byte_of_it_is_written(
    local: Registry, encoder: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card.html"
    card.touch()
    os.truncate(card, shutil.disk_usage(tmp_path).total)  # of holes: it takes no room itself
    with (
        pytest.raises(OSError, match="No space left") as full,
        local.run("viewfold", "full/register", params={}, tags={}) as tracked,
    ):
        local.register("full", {"encoder": encoder, "card": card}, dim=DIM, run=tracked, tags={}, alias=CHAMPION)
    assert one_line(full.value).startswith(f"{local.home}: no room left on the disk at ")
    assert (local.versions("full"), files_of(local.home)) == ([], [])


def test_what_a_registration_that_was_cut_had_logged_is_gone_and_the_next_one_works(
    local: Registry, encoder: Path, tmp_path: Path
) -> None:
    files = {"encoder": encoder, "card": tmp_path / "gone.html"}
    with (
        pytest.raises((OSError, InvalidInput), match=r"gone\.html"),
        local.run("viewfold", "cut/register", params={}, tags={}) as tracked,
    ):
        local.register("shapes", files, dim=DIM, run=tracked, tags={}, alias=CHAMPION)
    experiment = local.client.get_run(tracked.run_id).info.experiment_id
    assert (list(local.client.search_logged_models([experiment])), files_of(local.home)) == ([], [])
    assert registered(local, encoder, run="cut", alias=CHAMPION) == "1"
