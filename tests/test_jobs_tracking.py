"""Tracked runs when the server is there, when it is gone, and when it never answers: no wait, nothing lost or twice."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import unanswered, wait_until

from viewfold.cli import main
from viewfold.jobs.courier import settle
from viewfold.jobs.outbox import KEPT, About, Outbox, kept

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def file_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A server that is a file, shared by these tests, which ask for their own runs by name."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is told at once, and waited for on a machine where that takes longer."""
    from viewfold.jobs import tracking

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(tracking, "PATIENCE_S", 120)
    monkeypatch.setattr(tracking, "FILE_PATIENCE_S", 300)


@pytest.fixture
def gone() -> Iterator[str]:
    """An address at which nobody listens."""
    with unanswered() as address:
        yield address


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes every connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def tracked(folder: Path, name: str, *, steps: int = 3, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage of `steps` steps, with a file."""
    from viewfold.jobs.registry import Registry
    from viewfold.jobs.tracking import track

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text("name: r")
    files = {"": [folder / "config.yaml"]}
    params = {"train": {"steps": steps}}
    with track(Registry(folder), folder, name, params=params, tags={"run": "r"}, files=files) as box:
        for step in range(1, steps + 1):
            box.log_row({"step": step, "loss": 1 / step})


class Found(NamedTuple):
    """What a server has of a run."""

    run: Any
    losses: list[tuple[int, int]]
    """Step and time of each."""
    artifacts: list[str]


def found(uri: str, name: str) -> Found:
    """The one run of this name."""
    from mlflow import MlflowClient

    from viewfold.jobs.registry_server import EXPERIMENT

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (run,) = (run for run in runs if run.info.run_name == name)
    losses = [(one.step, one.timestamp) for one in client.get_metric_history(run.info.run_id, "loss")]
    return Found(run, losses, [file.path for file in client.list_artifacts(run.info.run_id)])


def sync(folder: Path) -> int:
    """The verb's exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(["sync", str(folder)])
    return int(stopped.value.code or 0)


def test_rows_settings_and_files_reach_the_server_and_nothing_stays(
    tmp_path: Path, file_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(tmp_path / "run", "there", uri=file_uri, monkeypatch=monkeypatch)
    run, losses, artifacts = found(file_uri, "there")
    assert [step for step, _ in losses] == [1, 2, 3]
    assert (run.info.status, run.data.params, run.data.tags["run"]) == ("FINISHED", {"train.steps": "3"}, "r")
    assert artifacts == ["config.yaml"]
    assert not (tmp_path / "run" / KEPT).exists()


def test_a_server_that_is_gone_costs_one_warning_and_gets_everything_later(
    tmp_path: Path, file_uri: str, gone: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = f"http://me:secret@{gone}"
    tracked(tmp_path / "run", "gone", uri=closed, monkeypatch=monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not answer" in line
    assert f"viewfold sync {tmp_path / 'run'}" in line
    (box,) = kept(tmp_path / "run" / KEPT)
    times = [(row.step, row.time) for row, _ in box.rows(0)]
    assert sync(tmp_path) == 2
    said = capsys.readouterr().err
    assert "does not answer" in said
    assert not [path for path in box.folder.rglob("*") if path.is_file() and "secret" in path.read_text()]
    assert "secret" not in line + said
    assert not settle(tmp_path / "run")  # such a folder is not to be removed
    monkeypatch.setenv("MLFLOW_TRACKING_URI", file_uri)
    assert sync(tmp_path) == 0
    assert capsys.readouterr().out == "1 run sent whole\n"
    run, losses, artifacts = found(file_uri, "gone")
    assert (losses, artifacts, run.info.status) == (times, ["config.yaml"], "FINISHED")
    assert run.info.start_time == box.about.began
    assert sync(tmp_path) == 0
    assert capsys.readouterr().out == "nothing waits to be sent\n"


def test_the_next_stage_of_the_run_sends_what_an_earlier_one_could_not(
    tmp_path: Path, file_uri: str, gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(tmp_path, "earlier", uri=f"http://{gone}", monkeypatch=monkeypatch)
    tracked(tmp_path, "later", uri=file_uri, monkeypatch=monkeypatch)
    assert [len(found(file_uri, name).losses) for name in ("earlier", "later")] == [3, 3]
    assert not (tmp_path / KEPT).exists()


def test_a_server_that_never_answers_keeps_no_stage_waiting(tmp_path: Path, silent: str) -> None:
    from viewfold.jobs.courier import Courier

    box = begun(tmp_path, "silent", silent)
    courier = Courier(tmp_path / KEPT, silent)
    box.log_row({"step": 1, "loss": 1.0})
    box.end("FINISHED")
    courier.stop(patience_s=0.05)
    assert "courier" in {thread.name for thread in threading.enumerate()}  # it waits; nobody waits for it
    assert courier.failure == f"MLflow at {silent}: no answer within 0 s"
    assert [row.step for row, _ in box.rows(0)] == [1]


def begun(folder: Path, name: str, uri: str, *, resume: str | None = None) -> Outbox:
    """An outbox for this server."""
    from viewfold.jobs.outbox import About

    about = About(experiment="viewfold", name=name, params={}, tags={}, uri=uri, home=str(folder))
    return Outbox.begin(folder / KEPT, about, {}, resume=resume)


def test_sending_that_was_killed_anywhere_makes_one_run_and_no_row_twice(tmp_path: Path, file_uri: str) -> None:
    from viewfold.jobs.outbox import Sent
    from viewfold.jobs.registry_send import Sender

    box = begun(tmp_path, "cut", file_uri, resume="mark")
    box.log_row({"step": 1, "loss": 1.0})
    assert not Sender(file_uri).send(box)  # it has not ended
    (box.folder / "sent.json").unlink()  # killed before the run's id was noted
    box.log_row({"step": 2, "loss": 0.5})
    assert not Sender(file_uri).send(box)
    again = begun(tmp_path, "cut", file_uri, resume="mark")
    for step in (1, 2, 3):
        again.log_row({"step": step, "loss": 1 / step})
    again.note(Sent(uri=file_uri, run_id=again.sent(file_uri).run_id))  # killed before its rows were noted
    again.end("FINISHED")
    assert Sender(file_uri).send(again)
    assert [step for step, _ in found(file_uri, "cut").losses] == [1, 2, 3]


def test_a_server_that_has_lost_the_run_gets_it_anew(tmp_path: Path, file_uri: str) -> None:
    from viewfold.jobs.courier import Sending, send
    from viewfold.jobs.outbox import Sent
    from viewfold.jobs.registry_send import Sender

    box = begun(tmp_path, "lost", file_uri)
    box.log_row({"step": 1, "loss": 1.0})
    box.end("FINISHED")
    box.note(Sent(uri=file_uri, run_id="0" * 32, row_bytes=0))
    sender = Sender(file_uri)
    assert "not found" in send([box], lambda box: sender, Sending()).failure
    assert send([box], lambda box: sender, Sending()) == Sending(whole=1)
    assert [step for step, _ in found(file_uri, "lost").losses] == [1]


def test_an_artifact_that_no_store_takes_holds_up_no_rows(tmp_path: Path, file_uri: str) -> None:
    from viewfold.jobs.courier import Sending, send
    from viewfold.jobs.outbox import About
    from viewfold.jobs.registry_send import Sender

    (tmp_path / "mlartifacts").write_text("a file where the store is to be")
    about = About(experiment="broken", name="first", params={}, tags={}, uri=file_uri, home=str(tmp_path))
    first = Outbox.begin(tmp_path / KEPT, about, {"": [tmp_path / "mlartifacts"]})
    second = begun(tmp_path, "second", file_uri)
    for box in (first, second):
        box.log_row({"step": 1, "loss": 1.0})
        box.end("FINISHED")
    sending = send([first, second], lambda box: Sender(file_uri), Sending())
    assert sending.whole == 1
    assert sending.failure.startswith("MLflow at sqlite:")
    assert [box.folder for box in kept(tmp_path / KEPT)] == [first.folder]
    assert [step for step, _ in found(file_uri, "second").losses] == [1]


def test_nothing_is_sent_to_a_file_on_a_full_disk_and_all_of_it_once_there_is_room(
    tmp_path: Path, file_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewfold.jobs import registry_server
    from viewfold.jobs.courier import Sending, send
    from viewfold.jobs.registry_send import Sender

    box = begun(tmp_path, "full", file_uri)
    box.log_row({"step": 1, "loss": 1.0})
    box.end("FINISHED")
    with monkeypatch.context() as full:
        full.setattr(registry_server, "LEAST_BYTES", 10**18)  # more than any disk has
        sending = send([box], lambda box: Sender(file_uri), Sending())
    assert "No space left on device" in sending.failure
    assert not box.sent(file_uri).run_id
    assert send([box], lambda box: Sender(file_uri), Sending()) == Sending(whole=1)
    assert [step for step, _ in found(file_uri, "full").losses] == [1]


def test_what_the_server_refuses_is_left_out_with_a_warning(
    tmp_path: Path, file_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from viewfold.jobs.registry_send import Sender

    box = begun(tmp_path, "refused", file_uri)
    box.log_row({"step": 1, "loss?!": 1.0})
    box.end("FINISHED")
    assert Sender(file_uri).send(box)
    assert "MLflow refuses part of refused" in capsys.readouterr().err
    assert found(file_uri, "refused").run.info.status == "FINISHED"


def test_an_error_in_the_stage_ends_its_run_as_failed(
    tmp_path: Path, file_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewfold.jobs.registry import Registry
    from viewfold.jobs.tracking import track

    monkeypatch.setenv("MLFLOW_TRACKING_URI", file_uri)
    with (
        pytest.raises(ZeroDivisionError),
        track(Registry(tmp_path), tmp_path, "failed", params={}, tags={}, files={}) as box,
    ):
        box.log_row({"step": 1, "loss": 1 / 0})
    assert found(file_uri, "failed").run.info.status == "FAILED"


def test_samples_of_the_machine_come_with_the_names_that_mlflow_shows_apart(tmp_path: Path) -> None:
    from viewfold.jobs.system_metrics import sampled

    box = begun(tmp_path, "system", "")
    with sampled(box.log_system, tmp_path, every_s=0.01):
        wait_until(lambda: len(list(box.rows(0))) > 1)
    rows = [row for row, _ in box.rows(0)]
    assert [row.step for row in rows] == list(range(len(rows)))
    assert 0 < rows[0].values["system/system_memory_usage_percentage"] < 100


def test_gpus_are_told_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from viewfold.jobs.system_metrics import gpus

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, 87, 40960, 81920'\necho '1, [N/A], 10, 81920'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = gpus()
    assert found["gpu_0_utilization_percentage"] == 87
    assert found["gpu_0_memory_usage_percentage"] == 50
    assert found["gpu_0_memory_usage_megabytes"] == pytest.approx(42949.67296)
    assert "gpu_1_utilization_percentage" not in found


def test_what_nobody_goes_on_with_is_ended_as_killed_and_sent(
    tmp_path: Path, file_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", file_uri)
    about = About(experiment="viewfold", name="left", params={}, tags={}, uri=file_uri, home=str(tmp_path))
    Outbox.begin(tmp_path / KEPT, about, {}).log_row({"step": 1, "loss": 0.5})
    assert settle(tmp_path)
    run, losses, _ = found(file_uri, "left")
    assert (run.info.status, [step for step, _ in losses]) == ("KILLED", [1])
    assert settle(tmp_path / "nowhere")


def test_another_process_that_sends_from_there_is_not_told_as_a_server_that_is_gone(
    tmp_path: Path, file_uri: str
) -> None:
    from viewfold.jobs.courier import Courier, alone

    begun(tmp_path, "waits", file_uri)
    with alone(tmp_path / KEPT) as mine:
        assert mine
        courier = Courier(tmp_path / KEPT, file_uri)
        wait_until(lambda: courier._shut_out)
        courier.stop(patience_s=0.1)
        assert courier.failure == f"another process sends from {tmp_path / KEPT}"


def test_what_another_version_kept_ends_no_thread_and_is_not_lost(
    tmp_path: Path, silent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from viewfold.jobs.courier import Courier

    box = begun(tmp_path, "other", silent)
    (box.folder / "sent.json").write_text(json.dumps({"uri": silent, "files": [], "more": 1}))
    courier = Courier(tmp_path / KEPT, silent)
    wait_until(lambda: courier.failure != "", seconds=120)
    assert courier.failure.startswith(f"nothing more is sent to MLflow at {silent} (TypeError: ")
    (box.folder / "run.json").write_text("{}")
    assert not settle(tmp_path)
    assert box.folder.is_dir()
    assert "not of this version" in capsys.readouterr().err
