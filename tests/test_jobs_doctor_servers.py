"""What the doctor says of clusters, tracking servers and stores that answer, refuse, or are not there."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import fsspec
import pytest
from servers import Fault, FileServer, file_server, put, s3_server, unanswered
from test_pipeline_store import s3_at

from viewfold.jobs.doctor_finding import Finding
from viewfold.jobs.doctor_ray import ray_cluster, token
from viewfold.jobs.doctor_storage import cache_folder, credentials, source
from viewfold.jobs.doctor_tracking import tracking


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that has nothing in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def gone() -> Iterator[str]:
    """An address of this machine at which nobody listens."""
    with unanswered() as address:
        yield address


def tracked(uri: str, **environ: str) -> Finding:
    (finding,) = tracking({"mlflow": "3.17.0"}, {"MLFLOW_TRACKING_URI": uri, **environ})
    return finding


def test_without_an_address_ray_starts_by_itself() -> None:
    (finding,) = ray_cluster({})
    assert (finding.level, finding.says.split(" (")[0]) == ("ok", "started on this machine when needed")


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_listens_is_reached(server: FileServer, scheme: str, home: Path) -> None:
    address = scheme + server.url.removeprefix("http://")
    found = ray_cluster({"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": "secret"})
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert address in found[0].says
    assert "secret" not in str(found)


def test_a_cluster_that_nobody_answers_for_is_missing(gone: str) -> None:
    (finding,) = ray_cluster({"RAY_ADDRESS": gone})
    assert finding.level == "MISSING"
    assert f"nobody answers at {gone} (Connection refused)" in finding.says


@pytest.mark.parametrize("address", ["http://head:8265", "head", "head:", ":6379", "ray://head", "head:port"])
def test_an_address_that_ray_could_not_use_is_refused_unasked(address: str) -> None:
    (finding,) = ray_cluster({"RAY_ADDRESS": address})
    assert (finding.level, "not an address" in finding.says) == ("MISSING", True)


@pytest.mark.parametrize("address", ["127.0.0.1:99999", f"{'a' * 70}.b:6379"])
def test_a_name_or_port_that_none_can_have_is_missing(address: str) -> None:
    (finding,) = ray_cluster({"RAY_ADDRESS": address})
    assert (finding.level, "nobody answers" in finding.says) == ("MISSING", True)


def test_auto_means_the_cluster_that_was_started_here(server: FileServer, home: Path) -> None:
    environ = {"RAY_ADDRESS": "auto", "RAY_TMPDIR": str(home)}
    assert [finding.level for finding in ray_cluster(environ)] == ["MISSING"]
    (home / "ray").mkdir()
    (home / "ray" / "ray_current_cluster").write_text(server.url.removeprefix("http://"))
    assert ray_cluster(environ)[0].level == "ok"


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({}, "note"),
        ({"RAY_AUTH_MODE": "token"}, "MISSING"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x"}, "ok"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "MISSING"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "x"}, "note"),
    ],
)
def test_a_token_is_looked_for_where_ray_looks(environ: dict[str, str], level: str, home: Path) -> None:
    assert token(environ).level == level
    if environ.get("RAY_AUTH_MODE") == "token":
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text("x")
        assert token(environ).level == "ok"


def test_a_tracking_server_says_its_version(server: FileServer) -> None:
    server.files["/mlflow/version"] = b"3.1.4"
    finding = tracked(f"{server.url}/mlflow/")
    assert (finding.level, finding.says) == ("ok", f"MLflow 3.1.4 at {server.url}/mlflow/")
    server.files["/mlflow/version"] = b"2.9.0"
    assert tracked(f"{server.url}/mlflow/").level == "note"


@pytest.mark.parametrize(("status", "cure"), [(401, "MLFLOW_TRACKING_USERNAME"), (503, "correct MLFLOW_TRACKING_URI")])
def test_a_tracking_server_that_refuses_is_missing(server: FileServer, status: int, cure: str) -> None:
    server.always["/version"] = Fault(status=status)
    finding = tracked(server.url)
    assert (finding.level, str(status) in finding.says, cure in finding.cure) == ("MISSING", True, True)


def test_what_is_no_tracking_server_is_missing(server: FileServer, gone: str) -> None:
    server.files["/version"] = b"<html>a page</html>"
    assert tracked(server.url).says.endswith("answers, and is no MLflow server")
    assert tracked(f"http://{gone}").says == f"http://{gone} does not answer (Connection refused)"
    assert tracked("http://host:port").says.startswith("MLFLOW_TRACKING_URI is no address")


def test_a_password_in_an_address_is_shown_to_nobody(gone: str) -> None:
    assert "secret" not in str(tracked(f"http://me:secret@{gone}"))
    assert "secret" not in str(tracked("postgresql://me:secret@db/mlflow"))


def test_a_tracking_file_is_made_by_the_first_run(tmp_path: Path) -> None:
    finding = tracked(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    assert (finding.level, "made by the first run" in finding.says) == ("ok", True)
    assert list(tmp_path.iterdir()) == []


def test_a_tracking_file_is_asked_for_the_right_to_write(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE runs (id)")
        assert tracked(f"sqlite:///{path}").says == f"{path} (SQLite) can be written"
        database.execute("BEGIN EXCLUSIVE")
        assert tracked(f"sqlite:///{path}").level == "note"
    path.write_bytes(b"these are not the bytes of a database" * 100)
    assert tracked(f"sqlite:///{path}").says == f"{path}: file is not a database"


def test_shards_in_a_folder_are_counted(tmp_path: Path) -> None:
    assert source(str(tmp_path))[0].says == f"{tmp_path}: no *.tar in it"
    (tmp_path / "a.tar").write_bytes(b"12345")
    assert source(str(tmp_path))[0].says == f"{tmp_path / 'a.tar'} has 5 bytes, one of 1"
    assert source(f"file://{tmp_path}/a.tar")[0].level == "ok"
    assert source("ftp://host/a.tar")[0].level == "MISSING"


@pytest.mark.slow  # imports aiohttp
def test_a_shard_of_a_web_server_is_asked_for(server: FileServer) -> None:
    server.files["/data/a.tar"] = b"12345"
    assert source(f"{server.url}/data/a.tar?signature=secret")[0].says == f"{server.url}/data/a.tar?... has 5 bytes"
    assert source(f"{server.url}/data/b.tar")[0].says.startswith("b.tar: cannot be read")
    server.always["/data/c.tar"] = Fault(status=503)
    assert source(f"{server.url}/data/c.tar")[0].level == "MISSING"  # asked once, not for minutes


def test_a_store_that_lists_shows_one_shard() -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/doctor/notes.txt", b"1")
    assert source("memory://doctor/")[0].says == "memory://doctor/ answers and lists no .tar"
    files.pipe("/doctor/a.tar", b"12345")
    for location in ("memory://doctor", "memory://doctor/", "memory://doctor/*.tar"):
        assert source(location)[0].says == "memory://doctor/a.tar has 5 bytes, one of 1"
    files.rm("/doctor", recursive=True)


@pytest.mark.slow
def test_a_bucket_shows_one_object_and_the_credentials_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as url:
        s3_at(url, monkeypatch)
        put(f"{url}/bucket")
        put(f"{url}/bucket/data/a.tar", b"12345")
        reached, found = source("s3://bucket/data/")
        assert reached.says == "s3://bucket/data/a.tar has 5 bytes, one of 1"
        assert found.says == "s3:// by AWS_ACCESS_KEY_ID"
        assert source("s3://bucket/elsewhere/")[0].level == "MISSING"


@pytest.mark.parametrize("kind", ["s3", "gs", "hf"])
def test_without_credentials_what_is_public_is_left(kind: str, home: Path) -> None:
    finding = credentials(kind, {})
    assert finding.level == "note"
    assert finding.cure.startswith("they are looked for in")


def test_a_file_of_credentials_must_be_there(home: Path) -> None:
    path = home / "account.json"
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(path)}
    assert credentials("gs", environ).level == "MISSING"
    path.write_text('{"private_key": "secret"}')
    assert credentials("gs", environ).says == "gs:// by GOOGLE_APPLICATION_CREDENTIALS"
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text("secret")
    assert credentials("s3", {}).says == f"s3:// by {home / '.aws' / 'credentials'}"


def test_a_cache_that_cannot_be_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIEWFOLD_CACHE", str(tmp_path / "cache"))
    assert cache_folder()[0].level == "ok"
    monkeypatch.setenv("VIEWFOLD_CACHE_BYTES", "many")
    assert cache_folder()[0].level == "note"
    monkeypatch.delenv("VIEWFOLD_CACHE_BYTES")
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIEWFOLD_CACHE", os.path.join(tmp_path, "file", "cache"))
    assert cache_folder()[0].level == "note"


def test_a_log_in_is_not_taken_along_to_another_place(server: FileServer) -> None:
    server.files["/elsewhere"] = b"3.1.4"
    server.always["/version"] = Fault(status=302, headers={"Location": f"{server.url}/elsewhere"})
    finding = tracked(server.url, MLFLOW_TRACKING_TOKEN="secret")
    assert (finding.level, "answers 302" in finding.says) == ("MISSING", True)
    assert not server.gets("/elsewhere")
