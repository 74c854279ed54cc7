"""Jobs on a Ray cluster of two nodes that asks for a token: sent once, followed, found again, stopped."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from servers import free_port, wait_until

from viewfold.config import to_yaml
from viewfold.errors import InvalidInput
from viewfold.jobs.recipes import smoke
from viewfold.jobs.submit import Job, connect, follow, stop, submit
from viewfold.jobs.submit_config import SubmitConfig
from viewfold.jobs.submit_server import authorization, check_server

pytestmark = [pytest.mark.heavy, pytest.mark.slow]

TOKEN = "0123456789abcdef0123456789abcdef"
CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of its dashboard. Each node has one CPU."""
    with TemporaryDirectory(prefix="vf-ray-", dir="/tmp") as folder, ExitStack() as stack:  # sockets' paths are short
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN_PATH", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        here, (gcs, dashboard, client, *agents) = _address(), [free_port() for _ in range(5)]
        head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        own = ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray"]
        process = stack.enter_context(_node(folder, here, agents[0], [*head, *own]))
        url = f"http://127.0.0.1:{dashboard}"
        wait_until(lambda: _answers(url) or process.poll() is not None, seconds=400)
        assert process.poll() is None, Path(folder, f"node-{agents[0]}.log").read_text()
        stack.enter_context(_node(folder, here, agents[1], [f"--address={here}:{gcs}"]))
        yield url


@contextmanager
def _node(folder: str, address: str, agent: int, options: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1", "--num-gpus=0"),
        *("--object-store-memory=100000000", "--disable-usage-stats", f"--node-ip-address={address}"),
        # Otherwise every worker takes a port of a range in which those chosen here may lie.
        *("--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}", *options),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ends_at_once = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}  # it would wait for its work for 30 s
    environment = {**os.environ, **ends_at_once, "RAY_AUTH_MODE": "token", "PATH": path}
    for name in ("PYTHONPATH", "RAY_OVERRIDE_RESOURCES"):  # jobs have the package that was sent, and no other
        environment.pop(name, None)
    with Path(folder, f"node-{agent}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()  # `ray start --block` ends what it has started
        with suppress(subprocess.TimeoutExpired):
            process.wait(120)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it has not: Ray would stay for all later tests
        process.wait()


def _address() -> str:
    """Of this machine: nodes that call themselves 127.0.0.1 do not find each other."""
    import ray

    return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]


def _answers(url: str) -> bool:
    try:
        check_server(url, authorization())
    except InvalidInput:
        time.sleep(0.3)
        return False
    return True


def config(url: str, *words: str, **settings: Any) -> SubmitConfig:
    return SubmitConfig(words=words, address=url, **settings)


def followed(client: Any, job: Job) -> tuple[int, str]:
    """The exit code, and all that was printed."""
    parts: list[str] = []
    return follow(client, job.id, write=parts.append), "".join(parts)


def test_without_the_right_token_nobody_is_let_in(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * len(TOKEN))
    with pytest.raises(InvalidInput, match="refuses the token"):
        connect(cluster)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InvalidInput, match="asks for a token"):
        connect(cluster)


def test_a_recipe_is_sent_once_and_followed_from_anywhere(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = smoke()
    assert whole.pretrain is not None
    left_out = dict.fromkeys(("adapt", "mine", "cluster", "evaluate", "embed", "index", "register_as", "compare"))
    # A worker on each of the nodes, which have one CPU.
    training = replace(whole.pretrain, steps=2, workers=2, engine="plain")
    recipe = replace(whole, name="tiny", pretrain=training, **left_out)  # type: ignore[arg-type]  # each may be None
    (tmp_path / "tiny.yaml").write_text(to_yaml(recipe))
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    words, client = ("run", "tiny.yaml", "--out", str(out)), connect(cluster)
    first = submit(client, config(cluster, *words))
    assert first.state == "sent"
    assert submit(client, config(cluster, *words)).state == "running"
    _left_by_ctrl_c(cluster, words)
    code, text = followed(client, submit(client, config(cluster, *words)))
    assert code == 0, text
    assert re.search(r"made +pretrain", text)
    assert (out / "pretrain" / "encoder" / "encoder.safetensors").is_file()
    again = submit(client, config(cluster, *words))
    assert (again.id, again.state) == (first.id, "succeeded")
    assert "--id" in again.sentence


def _left_by_ctrl_c(cluster: str, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "viewfold.cli", "submit", *words, "--address", cluster]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    process.stdout.readline()  # it follows
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "was submitted already and goes on" in said
    assert "left running" in said


def test_it_ends_as_the_job_does_and_what_failed_is_sent_again_under_a_number(cluster: str) -> None:
    client, words = connect(cluster), ("replay", "nowhere", "--key", "k", "--epoch", "0", "--view", "0")
    first = submit(client, config(cluster, *words, env={"VIEWFOLD_DATA": "/there"}))
    code, text = followed(client, first)
    assert code == 2
    assert text.count("error: ") == 1
    second = submit(client, config(cluster, *words))
    assert (second.id, second.state) == (f"{first.id}-2", "sent")
    stop(client, second.id)
    assert followed(client, second)[0] != 0
