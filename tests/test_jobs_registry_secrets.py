"""What a server's address holds of a log-in is nowhere told and nowhere written down."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from servers import Fault, file_server, wait_until

from viewfold.errors import InvalidInput

pytestmark = pytest.mark.heavy


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server whose backend is gone, by an address with a password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        uri = f"http://me:secret@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri
        server.shutdown()
        thread.join()


def test_a_server_that_answers_503_does_not_tell_the_password(refusing: str, tmp_path: Path) -> None:
    from viewfold.jobs.courier import Courier
    from viewfold.jobs.outbox import About, Outbox
    from viewfold.jobs.registry import Registry

    with pytest.raises(InvalidInput, match="503") as caught:
        Registry(tmp_path).versions("shapes")
    about = About(experiment="viewfold", name="r", params={}, tags={}, uri="", home=str(tmp_path))
    Outbox.begin(tmp_path / "tracking", about, {})
    courier = Courier(tmp_path / "tracking", refusing)
    wait_until(lambda: courier.failure != "", seconds=30)
    courier.stop(0)
    for said in (str(caught.value), courier.failure):
        assert "503" in said
        assert "me:" not in said
        assert "secret" not in said


def test_the_stage_that_registers_keeps_the_address_without_the_password(refusing: str, tmp_path: Path) -> None:
    from viewfold.jobs.recipes import RECIPES
    from viewfold.jobs.run_folder import Run
    from viewfold.jobs.stages import STAGES

    run = Run(RECIPES["smoke"](), tmp_path, tmp_path, ExitStack())
    assert STAGES["register"].reads(run) == {"server": refusing.replace("me:secret@", "")}


def test_a_model_that_is_not_known_is_told_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from viewfold.jobs.champion import history_of

    with file_server() as server:
        unknown = Fault(status=404, body=b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}')
        server.always["/api/2.0/mlflow/registered-models/get"] = unknown
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.replace("http://", "http://me:secret@"))
        with pytest.raises(InvalidInput, match="birds: not a model of http://127") as caught:
            history_of("birds", home=tmp_path, as_json=False)
    assert "secret" not in str(caught.value)
