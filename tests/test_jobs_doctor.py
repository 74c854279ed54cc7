"""What the doctor says of machines: whole ones, and ones that lack something."""

import json
import os
import re
import socket
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import free_port
from test_cli import accepted

from viewfold.cli import main
from viewfold.jobs.doctor import sound, table
from viewfold.jobs.doctor_finding import Finding, looked, looked_within, missing, note, ok
from viewfold.jobs.doctor_gpu import gpus
from viewfold.jobs.doctor_machine import folder, open_files, shared_memory, temporary_folder
from viewfold.jobs.doctor_packages import EXTRAS, constrained_versions, installed, packages
from viewfold.jobs.doctor_ports import port

ROOT = Path(__file__).resolve().parents[1]
ALL = {name: "1.0" for extra in EXTRAS.values() for names in extra.packages for name in names.split("|")[:1]}


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow  # imports torch and Ray
def test_this_machine_is_sound(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    report = json.loads(accepted(capsys, "doctor", "--json"))
    assert report["sound"]
    levels = {finding["what"]: finding["level"] for finding in report["findings"]}
    assert {levels[what] for what in ("python", "train", "retrieval", "ray", "runs", "tracking")} == {"ok"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_shards_that_cannot_be_read_are_exit_code_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2
    printed = " ".join(capsys.readouterr().out.split())  # the table wraps where the path's length says
    assert re.search(r"MISSING storage \S+nowhere: no such file or folder", printed)


def test_only_what_is_missing_is_unsound() -> None:
    assert sound([ok("a", "is there"), note("b", "could be better", "mend it")])
    assert not sound([ok("a", "is there"), missing("c", "is not there", "get it")])


def test_the_cure_stands_below_what_it_cures() -> None:
    first, second = table([note("b", "could\nbe better", "mend it")]).splitlines()
    assert first == "note    b                could\\nbe better"
    assert second.strip() == "-> mend it"


def test_a_long_line_is_broken_between_words_only() -> None:
    path = "/a-long-folder" * 12
    lines = table([ok("runs", f"1 GB free at {path} and then some words")]).splitlines()
    assert len(lines) == 3
    assert lines[1].strip() == path


def test_what_a_look_raises_is_what_it_finds() -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("the library was built\nfor another machine")

    (finding,) = looked("torch", broken)
    assert (finding.level, finding.says) == ("MISSING", "RuntimeError: the library was built for another machine")


def test_a_look_that_hangs_is_given_up_and_the_others_stand() -> None:
    release = threading.Event()

    def hangs() -> list[Finding]:
        release.wait()
        return []

    looks = {"disk": hangs, "ports": lambda: [ok("port 1", "free"), ok("port 2", "free")]}
    found = looked_within(0.1, looks)
    release.set()
    assert [(finding.what, finding.level) for finding in found] == [
        ("disk", "MISSING"), ("port 1", "ok"), ("port 2", "ok"),
    ]  # fmt: skip


def test_every_package_of_every_extra_is_looked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        name: {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}
        for name, requirements in project["optional-dependencies"].items()
    }
    (everything,) = project["optional-dependencies"]["all"]
    assert set(EXTRAS) == set(re.findall(r"\[(.*)\]", everything)[0].split(","))
    for name, extra in EXTRAS.items():
        assert {names.split("|")[0] for names in extra.packages} == declared[name]


@pytest.mark.parametrize("name", EXTRAS)
def test_a_missing_extra_is_named_with_the_command_that_brings_it(name: str) -> None:
    lacks = EXTRAS[name].packages[0].split("|")[0]
    finding = by_name(packages({n: v for n, v in ALL.items() if n != lacks}, {}))[name]
    assert finding.level == ("MISSING" if name in ("train", "retrieval") else "note")
    assert finding.says == f"{lacks} not installed"
    assert finding.cure.startswith(f"pip install 'viewfold[{name}]'")


def test_faiss_for_gpus_is_enough_and_both_are_too_many() -> None:
    one = {**ALL, "faiss-gpu-cu12": "1.0"}
    del one["faiss-cpu"]
    assert by_name(packages(one, {}))["retrieval"].says == "faiss-gpu-cu12 1.0"
    assert by_name(packages({**one, "faiss-cpu": "1.0"}, {}))["faiss"].level == "note"


def test_versions_that_the_tests_do_not_run_with_are_named() -> None:
    have = {"torch": "2.9.0+cpu", "prometheus_client": "1.0", "scikit-learn": "1.9.1", "unlisted": "3"}
    finding = packages(have, {"torch": "2.9.0", "prometheus-client": "1.1", "scikit-learn": "1.9.1"})[-1]
    assert finding.level == "note"
    assert finding.says.endswith("(in brackets): prometheus_client 1.0 (1.1)")


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    tested = constrained_versions()
    assert {"torch", "ray", "scikit-learn", "prometheus-client"} <= tested.keys()
    assert all(re.fullmatch(r"\d[\w.+]*", number) for number in tested.values())
    assert {"numpy", "torch"} <= {*installed(), "numpy"}


def test_little_shared_memory_is_a_note_with_the_flag_that_gives_more(tmp_path: Path) -> None:
    (finding,) = shared_memory(tmp_path, least_gb=1e9)
    assert (finding.level, "--shm-size" in finding.cure) == ("note", True)
    assert shared_memory(tmp_path, least_gb=0)[0].level == "ok"
    assert shared_memory(tmp_path / "none") == []


def test_few_open_files_are_a_note() -> None:
    (finding,) = open_files(least=sys.maxsize + 1)
    assert (finding.level, "ulimit" in finding.cure) == ("note", True)
    assert open_files(least=1)[0].level == "ok"


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert folder("runs", tmp_path / "a" / "b", "free space", least_gb=0).level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = folder("runs", tmp_path / "file" / "runs", "free space", least_gb=0)
    assert (finding.level, finding.cure) == ("MISSING", "free space")
    assert "Not a directory" in finding.says
    assert folder("runs", tmp_path, "free space", least_gb=1e9).level == "MISSING"


def test_temporary_files_go_where_ray_puts_them(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert str(tmp_path) in temporary_folder({"RAY_TMPDIR": str(tmp_path), "TMPDIR": str(nowhere)})[0].says
    (finding,) = temporary_folder({"TMPDIR": str(nowhere)})
    assert (finding.level, f"TMPDIR={nowhere}" in finding.says) == ("note", True)


def test_a_driver_without_a_gpu_that_torch_sees_is_a_note(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees a GPU here")
    (tmp_path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23\nGCC 12.3.0\n"
    )
    (finding,) = gpus({"torch": torch.__version__}, tmp_path / "version")
    assert finding.level == "note"
    assert finding.says.startswith("driver 580.95.05 is loaded, and torch")
    (finding,) = gpus({"torch": torch.__version__}, tmp_path / "none")
    assert finding.level == "ok"
    assert gpus({}, tmp_path / "version")[0].says == "unknown without torch"


def test_a_port_that_is_taken_names_the_process(taken: int) -> None:
    finding = port(taken, "viewfold serve", "give another one")
    assert (finding.level, finding.cure) == ("note", "give another one")
    assert f"(process {os.getpid()})" in finding.says


def test_a_port_that_nobody_has_is_free(taken: int) -> None:
    assert port(free_port(), "viewfold serve", "").says == "free, for viewfold serve"
