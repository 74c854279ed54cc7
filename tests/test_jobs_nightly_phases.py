"""What follows a night's training: judged, promoted, told, checked, taken back, cleared away; each step done once."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from nights import DAY, GATES, Home, lines, make_home, settings, with_settings
from serve_process import service, write_pair

from viewfold.config import dump
from viewfold.errors import InvalidInput, TrainingStopped, ViewfoldError
from viewfold.jobs.index_verbs import calibrate
from viewfold.jobs.nightly_canary import CANARIES, read_canaries
from viewfold.jobs.nightly_lease import Lease
from viewfold.jobs.nightly_night import Night, begin, nights
from viewfold.jobs.nightly_phases import Work, carry_out
from viewfold.jobs.nightly_prune import prune
from viewfold.jobs.nightly_result import TRACEBACK, tell_result
from viewfold.jobs.nightly_service import asked_there, client_of, pair_served, tell
from viewfold.jobs.registry import CHALLENGER
from viewfold.retrieval.selection.calibration import FILE, Calibration

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Each test has a model of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield make_home(tmp_path_factory.mktemp("home"))


@contextmanager
def webhook(status: int = 204) -> Iterator[tuple[str, list[Any]]]:
    """A server that takes what is posted, and says so, or another `status` as a proxy does that finds nobody behind."""
    taken: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/done", taken
        server.shutdown()
        thread.join()


def tags(home: Home, name: str, version: str) -> dict[str, str]:
    return home.registry.facts(f"models:/{name}/{version}").tags


def ended(home: Home, name: str) -> Night:
    (night,) = nights(home.folder / "nightly" / name)
    return night


def test_a_challenger_that_passes_is_champion_and_the_result_is_told_once(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.model("passes")
    with webhook() as (url, taken):
        config = settings("passes", webhook=url, result=str(tmp_path / "result.json"))
        home.night(config)
        (home.folder / "nightly" / "passes" / ".no-folder.gone").touch()  # cannot be removed as a folder is
        code, said = home.start(config)
        assert code == 0, said
        assert home.champion("passes") == "2"
        assert tags(home, "passes", "2")["replaces"] == "1"
        result = json.loads((tmp_path / "result.json").read_text())
        assert (result["outcome"], result["version"], result["champion_before"]) == ("promoted", "2", "1")
        assert result["gates"]["passed"]
        assert home.start(config)[0] == 0
        assert taken == [result]
        nowhere = settings("passes", webhook=url, result=str(tmp_path / "result.json" / "file"))
        tell_result(nowhere, ended(home, "passes"), "promoted", "once more")
        assert taken[1]["reason"] == "once more"
    assert "warning: the result cannot be written to" in capsys.readouterr().err
    assert ended(home, "passes").outcome == "promoted"


def test_a_start_that_finds_nothing_new_loads_neither_ray_nor_mlflow(home: Home, tmp_path: Path) -> None:
    config = settings("quiet")
    home.night(config).end("promoted", "better")
    file = tmp_path / "nightly.yaml"
    file.write_text(json.dumps(dump(config)))
    code = f"""
import sys
from viewfold.cli import main
try:
    main(["nightly", {str(file)!r}, "--home", {str(home.folder)!r}])
finally:
    print(sorted({{"ray", "mlflow"}} & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.splitlines()[0].startswith("nightly quiet: nothing new")
    assert found.splitlines()[1] == "[]"


def test_a_challenger_that_fails_a_gate_leaves_the_champion(home: Home) -> None:
    home.model("fails")
    config = settings("fails", gates={**GATES, "bundle_latency_ms": {"at_most": 0.0}})
    home.night(config)
    code, said = home.start(config)
    assert code == 1
    assert home.champion("fails") == "1"
    assert lines(said, "nightly fails: refused: version 2 is no champion")
    assert tags(home, "fails", "2")["validation_status"] == "failed"
    assert home.start(config)[0] == 0, "the same data are not tried again"


def test_canaries_that_fail_put_the_old_champion_back(home: Home) -> None:
    home.model("sings")
    config = settings("sings", canary={"images": 4, "k": 2, "min_precision": 1.0})
    home.night(config)
    code, said = home.start(config)
    assert code == 1
    assert home.champion("sings") == "1"
    assert home.registry.find("sings", CHALLENGER) is None
    failed = tags(home, "sings", "2")
    assert failed["validation_status"] == "rolled back"
    assert "of the demonstrations carry the label" in failed["validation"]
    assert ended(home, "sings").facts["reason"].endswith("version 1 is champion again")
    assert lines(said, "roll_back")


def test_a_first_champion_that_fails_leaves_none_as_before(home: Home) -> None:
    home.model("first", champion=False)
    config = settings("first", canary={"images": 4, "k": 2, "min_precision": 1.0})
    home.night(config, champion=None)
    assert home.start(config)[0] == 1
    assert home.champion("first") is None
    assert tags(home, "first", "1")["validation_status"] == "rolled back"


def test_a_bundle_that_is_damaged_after_it_was_judged_is_not_served(home: Home) -> None:
    home.model("damaged")
    config = settings("damaged")
    night = home.night(config)
    with (night.run / "index" / "bundle" / "index.faiss").open("r+b") as file:
        file.seek(5000)
        file.write(b"damaged")
    assert home.start(config)[0] == 1
    assert home.champion("damaged") == "1"
    assert "the canaries cannot be asked" in tags(home, "damaged", "2")["validation"]


def test_a_first_champion_is_checked_here_where_only_a_proxy_answers_yet(home: Home) -> None:
    home.model("early", champion=False)
    with webhook(502) as (url, _):
        config = settings("early", service={"url": url.removesuffix("/done"), "wait_s": 0})
        home.night(config, champion=None)
        assert home.start(config)[0] == 0
    assert home.champion("early") == "1"


def test_what_nobody_foresaw_in_a_check_rolls_back_and_elsewhere_is_told_as_failed(home: Home, tmp_path: Path) -> None:
    home.model("surprised")
    config = settings("surprised")
    night = home.night(config)
    (night.folder / "canaries" / CANARIES).write_text("{ no JSON")
    assert home.start(config)[0] == 1
    assert home.champion("surprised") == "1"
    home.model("amazed")
    config = settings("amazed", result=str(tmp_path / "result.json"))
    night = home.night(config)
    night.keep("gates", {"passed": True, "reason": "without a champion, which no gates leave out", "line": ""})
    with pytest.raises(ViewfoldError, match=r"KeyError: 'champion'; where it came from is in .*failed\.txt"):
        home.start(config)
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "failed"
    assert "Traceback" in (night.folder / TRACEBACK).read_text()


def test_a_champion_that_was_moved_on_by_hand_stays_when_the_check_fails(home: Home) -> None:
    home.model("overtaken")
    config = settings("overtaken", service={"url": "http://127.0.0.1:1", "wait_s": 600})
    night = home.night(config)
    night.keep("gates", {"passed": True, "reason": "no worse", "champion": "1", "verdict": {}, "line": ""})
    night.keep("promote", {"line": ""})
    night.keep("tell", {"failure": "", "code": "", "line": ""})
    night.keep("check", {"failure": "wrong answers", "precision": None, "line": ""})
    home.registry.point("overtaken", "champion", home.version("overtaken", "1", home.folder / "first"))
    assert home.start(config)[0] == 1
    assert home.champion("overtaken") == "3"
    assert ended(home, "overtaken").facts["reason"].endswith("wrong answers; meanwhile version 3 was made champion")


def test_a_successor_of_a_calibrated_index_is_calibrated_or_refused(home: Home, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(home.folder / "first", first)
    calibrate(first / "index" / "bundle", kind="logistic")
    home.model("probable", first=first)
    config = settings("probable")
    home.night(config)
    assert home.start(config)[0] == 0
    made = Path(tags(home, "probable", "2")["bundle"])
    assert Calibration.load(made / FILE, encoder_id=tags(home, "probable", "2")["encoder_id"]).kind == "logistic"
    home.model("alone", first=first)
    config = settings("alone")
    night = home.night(config)
    write_pair(tmp_path / "alone", seed=1, rows=60)
    shutil.rmtree(night.run / "index" / "bundle")
    shutil.copytree(tmp_path / "alone" / "index" / "bundle", night.run / "index" / "bundle")
    assert home.start(config)[0] == 1
    assert home.champion("alone") == "1"
    assert "a calibration leaves one out at a time and needs two" in tags(home, "alone", "2")["validation"]
    assert ended(home, "alone").outcome == "refused"


def test_a_champion_that_was_changed_by_hand_meanwhile_is_judged_against(home: Home) -> None:
    home.model("moved")
    config = settings("moved")
    night = home.night(config)
    night.keep("gates", {"passed": True, "reason": "against version 1", "champion": "1", "verdict": {}, "line": ""})
    home.registry.point("moved", "champion", home.version("moved", "1", home.folder / "first"))
    code, said = home.start(config)
    assert code == 0
    assert lines(said, "gates: version 3 was made champion meanwhile; judged anew")
    assert tags(home, "moved", "2")["replaces"] == "3"


def test_a_cut_night_whose_shards_changed_is_given_up(home: Home) -> None:
    home.model("changed")
    config = settings("changed", recipe="objects-demo")
    night = home.night(config)
    night.facts["hash"] = "00000000"
    night.write()
    with pytest.raises(InvalidInput, match="makes no index"):  # of the night that is begun in its place
        home.start(config)
    assert ended(home, "changed").outcome == "abandoned"
    assert home.champion("changed") == "1"


def test_a_cut_night_that_has_passed_the_gates_is_ended_first_on_any_day(home: Home) -> None:
    home.model("ends")
    config = settings("ends")
    night = home.night(config)
    night.keep("gates", {"passed": True, "reason": "no worse", "champion": "1", "verdict": {}, "line": ""})
    code, said = home.start(config, "2026-03-05")
    assert code == 0
    assert home.champion("ends") == "2"
    assert said[-1].startswith("nightly ends: nothing new")


def test_a_night_that_failed_says_so_and_goes_on_at_the_next_start(home: Home, tmp_path: Path) -> None:
    home.model("later")
    config = settings("later", result=str(tmp_path / "result.json"))
    night = home.night(config)
    home.registry.client.delete_model_version("later", "2")
    with pytest.raises(InvalidInput, match="models:/later/2"):
        home.start(config)
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "failed"
    night.keep("run", {"version": home.version("later", "2", night.run), "line": "made"})
    assert home.start(config)[0] == 0
    assert json.loads((tmp_path / "result.json").read_text())["outcome"] == "promoted"


def test_a_service_is_told_and_asked_and_told_again_when_its_canaries_fail(home: Home, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(home.folder / "first", first)
    calibrate(first / "index" / "bundle", kind="logistic")
    home.model("served", first=first)
    home.model("unsung")
    address = {"wait_s": 30}
    # With weights that nobody trained no match is this probable: what is asked as a service has it set brings nothing.
    words = ["--home", str(home.folder), "watch_s=0", "service.select.abstain.min_p_match=0.999"]
    with service("models:/served@champion", words, log=tmp_path / "log.txt") as running:
        config = settings("served", service={"url": running.url, **address})
        night = home.night(config)
        assert home.start(config)[0] == 0
        with client_of(config.service) as client:  # type: ignore[arg-type]
            assert pair_served(client)["version"] == "2"
        # The same night again, from the judgement on, with canaries that nobody could pass.
        home.registry.point("served", "champion", "1")
        assert config.service is not None
        late = threading.Timer(1.5, tell, [config.service])
        late.start()
        canaries = read_canaries(night.folder / "canaries")
        answers = asked_there(config.service, home.registry.facts("models:/served/1"), canaries, 2)
        assert {answer.encoder_id for answer in answers} == {tags(home, "served", "1")["encoder_id"]}
        late.join()
        for phase in ("calibrate", "promote", "tell", "check", "prune", "result"):
            night.forget(phase)
        again = begin(
            night.folder,
            **{k: night.facts[k] for k in ("date", "hash", "asked", "stamps", "champion", "replay", "forced")},
        )
        again.keep("run", {"version": "2", "line": "made"})
        strict = with_settings(config, canary={"images": 4, "k": 2, "min_precision": 1.0})
        assert home.start(strict)[0] == 1
        assert "and the service serves it" in ended(home, "served").facts["reason"]
        with client_of(config.service) as client:
            assert pair_served(client)["version"] == "1"
    # Nobody answers there now: a champion that cannot be checked does not stay.
    silent = settings("unsung", service={"url": running.url, "wait_s": 0})
    home.night(silent)
    assert home.start(silent)[0] == 1
    assert home.champion("unsung") == "1"
    assert "cannot reach the service" in ended(home, "unsung").facts["reason"]


def test_old_nights_go_but_never_one_that_an_alias_or_the_way_back_leads_to(home: Home) -> None:
    home.model("many")
    config = settings("many", keep=1)
    folder = home.folder / "nightly" / "many"
    for day, outcome in (("2026-01-01", "refused"), ("2026-01-02", "abandoned"), ("2026-01-03", "promoted")):
        old = begin(folder / f"{day}-00000000", date=day, hash="00000000", asked={"fingerprint": ""}, stamps={})
        (old.run / "adapt" / "checkpoints").mkdir(parents=True)
        old.end(outcome, "")  # type: ignore[arg-type]
    night = home.night(config)
    kept = folder / "2026-01-03-00000000"
    home.registry.tag("many", "1", {"run_folder": str((kept / "run").resolve())})
    (folder / ".2025-12-31-00000000.gone").mkdir()
    (folder / "notes").mkdir()
    assert home.start(config)[0] == 0
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [kept.name, night.folder.name, "notes"]
    assert not (kept / "run" / "adapt" / "checkpoints").exists()
    assert "pruned" not in tags(home, "many", "1")
    # Once nothing leads there any more it goes, and the version says so.
    home.registry.tag("many", "2", {"replaces": "2"})
    done = prune(config, home.registry, nights(folder), ended_at(folder, night))
    assert done["removed"] == [kept.name]
    assert "pruned" in tags(home, "many", "1")


def ended_at(folder: Path, night: Night) -> Night:
    return next(one for one in nights(folder) if one.folder == night.folder)


def test_a_phase_is_not_begun_without_the_lease(home: Home) -> None:
    home.model("lost")
    config = settings("lost")
    night = home.night(config)
    lease = Lease(night.folder.parent, 10)  # never taken
    with pytest.raises(TrainingStopped, match="the lease was removed"):
        carry_out(Work(config, home.folder, night, home.registry, lease, print))
    assert home.champion("lost") == "1"
    assert DAY in night.folder.name


def test_where_the_version_before_cannot_be_served_the_night_ends_without_a_champion(home: Home) -> None:
    home.model("stranded")
    config = settings("stranded")
    night = home.night(config)
    night.keep("gates", {"passed": True, "reason": "no worse", "champion": "1", "verdict": {}, "line": ""})
    for phase in ("promote", "tell"):
        night.keep(phase, {"failure": "", "code": "", "line": ""})
    night.keep("check", {"failure": "wrong answers", "precision": None, "line": ""})
    home.registry.point("stranded", "champion", "2")
    home.registry.tag("stranded", "1", {"bundle": str(home.folder / "no-bundle")})
    assert home.start(config)[0] == 1
    assert home.champion("stranded") is None
    assert tags(home, "stranded", "2")["validation_status"] == "rolled back"
    reason = str(ended(home, "stranded").facts["reason"])
    assert "there is no champion, for models:/stranded/1 cannot be served: its index" in reason
