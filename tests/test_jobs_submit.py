"""What is submitted follows from the words; a server that cannot take it is told apart by one line. No Ray here."""

import shlex
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from servers import Fault, FileServer, file_server

import viewfold
from viewfold.cli import main
from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.jobs.submit_config import (
    SubmitConfig,
    dated,
    entrypoint,
    equivalent,
    left_to_shell,
    passed_on,
    runtime_env,
    sent_files,
    sent_mark,
    submission_id,
)
from viewfold.jobs.submit_server import authorization, check_server

HEAD = "http://head:8265"
RUN = ("run", "smoke", "pretrain.steps=7", "--out", "/viewfold/runs/a")
VERSION = "/api/version"


def config(*words: str, **settings: Any) -> SubmitConfig:
    return parse(SubmitConfig, {"words": list(words), "address": HEAD, **settings}, where="submit")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with file_server() as started:
        yield started


def test_the_same_run_has_the_same_id_however_it_is_written() -> None:
    same = {
        submission_id(RUN),
        submission_id(("run", "smoke", "pretrain.steps=7", "--out=/viewfold/runs/a")),
        submission_id(("run", "-o", "/viewfold/runs/a/", "smoke", "pretrain.steps=7")),
    }
    assert len(same) == 1
    assert same.pop().startswith("viewfold-run-smoke-")


@pytest.mark.parametrize(
    "words",
    [("pretrain", *RUN[1:]), (*RUN[:2], "pretrain.steps=8", *RUN[3:]), (*RUN[:4], "/viewfold/runs/b"), RUN[:3]],
    ids=["verb", "setting", "folder", "no folder"],
)
def test_another_verb_setting_or_folder_is_another_submission(words: tuple[str, ...]) -> None:
    assert submission_id(words) != submission_id(RUN)


def test_an_id_of_ones_own_goes_before() -> None:
    assert config(*RUN, id="mine.1").submission_id == "mine.1"
    assert config(*RUN).submission_id == submission_id(RUN)


def test_a_shell_finds_the_words_again() -> None:
    words = ["run", "it's.yaml", "data.shards=['s3://b/{0..9}.tar', 's3://b/$x;*.tar']"]
    assert shlex.split(entrypoint(words)) == ["python", "-m", "viewfold.cli", *words]


def test_each_night_is_a_submission_of_its_own() -> None:
    first, second = (dated(("nightly", "n.yaml"), datetime(2031, 5, day, tzinfo=UTC)) for day in (6, 7))
    assert first == ("nightly", "n.yaml", "--date", "2031-05-06")
    assert submission_id(first) != submission_id(second)
    for named in (("nightly", "n.yaml", "--date=2031-01-01"), ("run", "smoke")):
        assert dated(named, datetime(2031, 5, 6, tzinfo=UTC)) == named


def test_the_package_goes_along_and_nothing_that_runs_leave_behind(tmp_path: Path) -> None:
    sent = runtime_env(config("list", "methods", env={"A": "b"}), tmp_path)
    assert sent["py_modules"] == [str(Path(viewfold.__file__).parent)]
    assert sent["working_dir"] == str(tmp_path)
    assert sent["env_vars"] == {"A": "b"}
    assert {".git/", "__pycache__/", "/runs/"} <= set(sent["excludes"])
    assert "working_dir" not in runtime_env(config("list", "methods"), None)


def test_only_files_below_this_folder_are_sent(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("mine.yaml", "sub/other.yml", "notes.txt"):
        (tmp_path / name).write_text("a: 1\n")
    words = ["run", "mine.yaml", "sub/other.yml", "notes.txt", str(tmp_path / "mine.yaml"), "gone.yaml", "../x.yaml"]
    assert sent_files(words) == ["mine.yaml", "sub/other.yml"]


def test_the_files_that_go_along_are_known_by_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    marks = []
    for text in ("a: 1\n", "a: 2\n"):
        for folder in (tmp_path, tmp_path / "sub"):
            (folder / "mine.yaml").write_text(text)
        words = ("run", "mine.yaml", "-o", "/viewfold/runs/a")
        marks.append([sent_mark(config(*words)), sent_mark(config(*words, working_dir=tmp_path / "sub"))])
    (one, also_one), (two, also_two) = marks
    assert (one, two) == (also_one, also_two)
    assert one != two
    assert sent_mark(config(*RUN)) == ""


def test_a_run_that_would_be_gone_with_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    for words in (("run", "mine.yaml"), ("run", "mine.yaml", "--out", "runs/a"), ("nightly", "mine.yaml")):
        with pytest.raises(InvalidInput, match="absolute path that all nodes see"):
            config(*words)
    assert config("run", "mine.yaml", "-o", "/viewfold/runs/a").sends
    assert config("nightly", "mine.yaml", "--home=/viewfold/runs").sends
    assert not config("run", "smoke").sends


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"address": "head:8265"}, "http://head:8265"),
        ({"address": "ray://head:10001"}, "dashboard"),
        ({"id": "../up"}, "letters, digits"),
        ({"words": []}, "name a verb"),
        ({"working_dir": "nowhere"}, "no such folder"),
    ],
)
def test_what_cannot_be_submitted_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse(SubmitConfig, {"words": ["list", "methods"], "address": HEAD, **settings})


def test_variables_are_passed_by_name() -> None:
    here = {"HF_TOKEN": "secret", "MLFLOW_TRACKING_URI": "http://mlflow:5000", "OTHER": "1"}
    assert passed_on(["HF_TOKEN", "A=b=c"], here) == {
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "HF_TOKEN": "secret",
        "A": "b=c",
    }
    assert passed_on([], {"MLFLOW_TRACKING_URI": "sqlite:///here.db"}) == {}  # nobody else can open it
    for wrong in ("GONE", "a b=1", "=1"):
        with pytest.raises(InvalidInput, match="--env"):
            passed_on([wrong], here)


def test_the_command_of_ray_keeps_secrets_to_the_shell() -> None:
    sent = config(*RUN, env={"HF_TOKEN": "secret", "A": "b"})
    printed = equivalent(sent, ["HF_TOKEN"], follow=False)
    assert "secret" not in printed
    words = shlex.split(printed.replace("$HF_TOKEN", "from-the-shell"))
    options = dict(zip(words[3:7:2], words[4:8:2], strict=True))
    assert options == {"--address": HEAD, "--submission-id": submission_id(RUN)}
    assert "--no-wait" in words
    assert '"HF_TOKEN": "from-the-shell"' in words[words.index("--runtime-env-json") + 1]
    assert words[words.index("--") + 1 :] == shlex.split(entrypoint(RUN))


def test_the_tracking_server_of_this_machine_is_left_to_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@mlflow:5000")
    with pytest.raises(SystemExit):
        main(["submit", "--address", HEAD, "--env", "A=b", "run", "smoke", "-o", "/a", "--print"])
    printed = capsys.readouterr().out
    assert "secret" not in printed
    assert "$MLFLOW_TRACKING_URI" in printed
    assert '"A": "b"' in printed
    here = {"A": "1", "B": "2", "C": "3"}
    assert left_to_shell(here, ["A=1", "B", "C=3", "C"]) == ["B", "C"]


def test_the_verb_prints_or_refuses_before_it_connects(capsys: pytest.CaptureFixture[str]) -> None:
    for words, code in ((["run", "smoke", "-o", "/a", "--print"], 0), (["rum"], 2), (["submit", "run"], 2)):
        with pytest.raises(SystemExit) as stopped:
            main(["submit", "--address", HEAD, *words])
        assert (stopped.value.code or 0) == code
    told = capsys.readouterr()
    assert told.out.rstrip().endswith("-- python -m viewfold.cli run smoke -o /a")
    assert "did you mean 'run'" in told.err


def test_the_token_comes_from_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert authorization({}) == {}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
    (tmp_path / "named").write_text("named")
    assert authorization({}) == {"Authorization": "Bearer of-home"}
    assert authorization({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "named")}) == {"Authorization": "Bearer named"}
    assert authorization({"RAY_AUTH_TOKEN": "set"}) == {"Authorization": "Bearer set"}
    assert authorization({"RAY_AUTH_TOKEN": "set", "RAY_AUTH_MODE": "disabled"}) == {}
    with pytest.raises(InvalidInput, match="no such file"):
        authorization({"RAY_AUTH_TOKEN_PATH": "/nowhere"})


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault(status=401), "asks for a token: set RAY_AUTH_TOKEN"),
        (Fault(status=403), "refuses the token"),
        (Fault(status=404), "answers 404, so it is not Ray's"),
        (Fault(), "not Ray's"),
    ],
)
def test_a_server_that_does_not_let_us_in_is_told_by_one_line(server: FileServer, fault: Fault, says: str) -> None:
    server.files[VERSION] = b'{"version": 1}'
    server.always[VERSION] = fault
    with pytest.raises(InvalidInput, match=says):
        check_server(server.url, {})


def test_a_token_is_not_taken_along_to_another_place(server: FileServer) -> None:
    server.files["/elsewhere"] = b'{"ray_version": "2.60.0"}'
    server.always[VERSION] = Fault(status=302, headers={"Location": f"{server.url}/elsewhere"})
    with pytest.raises(InvalidInput, match="answers 302, so it is not Ray's"):
        check_server(server.url, {"Authorization": "Bearer x"})
    assert not server.gets("/elsewhere")


def test_a_server_of_ray_is_taken(server: FileServer) -> None:
    server.files[VERSION] = b'{"ray_version": "2.60.0"}'
    server.always.pop(VERSION, None)
    check_server(server.url, {"Authorization": "Bearer x"})


def test_nobody_and_one_who_never_answers_are_told_soon() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        with pytest.raises(InvalidInput, match="no job server answers there"):
            check_server(f"http://127.0.0.1:{port}", {})
        silent.listen()
        with pytest.raises(InvalidInput, match="timed out"):
            check_server(f"http://127.0.0.1:{port}", {}, timeout_s=0.1)
