"""Who may ask the service."""

import base64
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from served import LOCAL, app, built
from starlette.datastructures import Headers

from viewfold.errors import InvalidInput
from viewfold.retrieval.service.auth import VARIABLE, Keys, is_loopback, read_keys
from viewfold.retrieval.service.config import ServiceConfig
from viewfold.retrieval.service.failures import Forbidden, Unauthorized

KEY, OTHER = "a-key-of-24-characters-01", "a-key-of-24-characters-02"


def passes(keys: Keys, path: str = "/v1/search", **headers: str) -> bool:
    try:
        keys.check(path, Headers({name.replace("_", "-"): value for name, value in headers.items()}))
    except (Unauthorized, Forbidden):
        return False
    return True


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.org"])
def test_no_keys_for_others_than_this_machine_are_refused_at_the_start(host: str) -> None:
    with pytest.raises(InvalidInput, match="keys are needed"):
        Keys((), host)
    Keys((KEY,), host)


def test_loopback_is_known_in_every_spelling() -> None:
    assert all(is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"))
    assert not any(is_loopback(host) for host in ("", "localhost.example.org", "127.0.0.1.example.org", "0.0.0.0"))


def test_each_of_the_keys_passes_and_nothing_else() -> None:
    keys = Keys((KEY, OTHER), "0.0.0.0")
    assert passes(keys, authorization=f"Bearer {KEY}")
    assert passes(keys, authorization=f"bearer  {OTHER}")
    for wrong in ("", KEY, f"Basic {KEY}", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", "Bearer", "Bearer \u00e9"):
        assert not passes(keys, authorization=wrong)


def test_probes_and_the_page_need_no_key_and_nothing_else_does_without() -> None:
    keys = Keys((KEY,), "0.0.0.0")
    assert all(passes(keys, path) for path in ("/healthz", "/readyz", "/", "/static/page.js", "/openapi.json"))
    for path in ("/metrics", "/v1/indexes", "/v1/admin/reload", "/knn-service", "//", "/static"):
        assert not passes(keys, path)


def test_without_keys_a_foreign_name_and_a_foreign_page_are_refused() -> None:
    keys = Keys((), "127.0.0.1")
    assert passes(keys, host="127.0.0.1:8000")
    assert passes(keys, host="localhost:8000", origin="http://localhost:8000")
    assert passes(keys, host="[::1]:8000")
    assert not passes(keys, host="rebound.example.org:8000")
    assert not passes(keys, host="localhost:8000", origin="https://example.org")
    assert not passes(keys, host="localhost:8000", origin="null")
    assert not passes(keys, host="[broken")
    assert not passes(keys)


def test_without_keys_what_another_page_sets_off_is_refused_and_a_link_to_the_page_is_not() -> None:
    keys = Keys((), "127.0.0.1")
    picture = {"host": "localhost:8000", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}
    for site in ("cross-site", "same-site"):  # another port of this machine is the same site, and another origin
        assert not passes(keys, "/v1/records/a/thumbnail", sec_fetch_site=site, **picture)
        assert not passes(keys, "/", sec_fetch_site=site, **picture)
        assert not passes(keys, "/v1/map", host="localhost:8000", sec_fetch_site=site, sec_fetch_mode="navigate")
        assert passes(keys, "/", host="localhost:8000", sec_fetch_site=site, sec_fetch_mode="navigate")
    for site in ("same-origin", "none"):
        assert passes(keys, "/v1/records/a/thumbnail", sec_fetch_site=site, **picture)


@pytest.mark.parametrize("text", ["", " ,\n"])
def test_a_variable_without_a_key_does_not_open_the_service(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(InvalidInput, match="holds no key"):
        read_keys(ServiceConfig())


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}  # laptop\n\n{OTHER}\n")
    keys = read_keys(ServiceConfig(host="0.0.0.0", keys_file=str(file)))
    assert all(passes(keys, authorization=f"Bearer {key}") for key in (KEY, OTHER))
    monkeypatch.setenv(VARIABLE, f" {KEY},\n{OTHER} ")
    keys = read_keys(ServiceConfig(host="0.0.0.0"))
    assert all(passes(keys, authorization=f"Bearer {key}") for key in (KEY, OTHER))
    assert not passes(keys, authorization="Bearer ")
    basic = base64.b64encode(f"x:{KEY}".encode()).decode()
    assert passes(keys, authorization=f"Basic {basic}"), "what is written http://x:KEY@host/ is sent so"
    assert not any(passes(keys, authorization=f"Basic {wrong}") for wrong in ("", KEY, "eDp5", "%"))


def test_a_keys_file_that_protects_nothing_is_refused(tmp_path: Path) -> None:
    for name, content in {"empty": b"# none\n", "short": b"secret\n", "binary": b"\xff\xfe"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInput):
            read_keys(ServiceConfig(keys_file=str(tmp_path / name)))
    with pytest.raises(InvalidInput, match="no such file"):
        read_keys(ServiceConfig(keys_file=str(tmp_path / "none")))


def test_the_application_asks_for_a_key_before_it_reads_anything(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(KEY)
    built(tmp_path / "bundle")
    api = TestClient(app(tmp_path / "bundle", host="0.0.0.0", keys_file=str(file)), base_url="http://served.example")
    refused = api.post("/v1/search", content=b"x" * 100)
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert refused.json()["error"]["code"] == "unauthorized"
    assert api.get("/v1/indexes", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert api.get("/readyz").status_code == 200
    local = TestClient(app(tmp_path / "bundle"), base_url="http://served.example")
    assert (local.get("/v1/indexes").status_code, local.get(LOCAL + "/v1/indexes").status_code) == (403, 200)
