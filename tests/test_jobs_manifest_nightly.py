"""Resources for a nightly: what runs when, that what is refused is refused by day, and that KubeRay takes them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay import problems_with

from viewfold.cli import main
from viewfold.config import parse
from viewfold.errors import InvalidInput
from viewfold.jobs.manifest_nightly import CronJobConfig, RayCronJobConfig, cronjob, raycronjob, scheduled_config
from viewfold.jobs.submit_config import dated, sent_files

CHECKOUT = Path(__file__).resolve().parents[1]
NIGHTLY = "name: emoji\nrecipe: smoke\nsteps: 100\n"


@pytest.fixture
def nightly(tmp_path: Path) -> Path:
    file = tmp_path / "night.yaml"
    file.write_text(NIGHTLY)
    return file


def ray_cron(nightly: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    sent, resource = raycronjob(parse(RayCronJobConfig, {"nightly": str(nightly), **settings}))
    return sent, resource


def cron(nightly: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    sent, resource = cronjob(parse(CronJobConfig, {"nightly": str(nightly), "cluster": "mine", **settings}))
    return sent, resource


def test_a_cluster_is_started_night_for_night(nightly: Path) -> None:
    sent, resource = ray_cron(nightly, settings=["steps=7"], schedule="30 1 * * 1-5", time_zone="Europe/Berlin")
    assert (sent["metadata"]["name"], resource["metadata"]["name"]) == ("emoji-nightly", "emoji")
    spec = resource["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["suspend"]) == ("30 1 * * 1-5", "Europe/Berlin", False)
    words = shlex.split(spec["jobTemplate"]["entrypoint"])
    assert words == ["viewfold", "nightly", "/etc/viewfold/nightly.yaml", "steps=7", "--home", "/viewfold/runs"]
    head = spec["jobTemplate"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert "emoji-nightly" in [v["configMap"]["name"] for v in head["volumes"] if "configMap" in v]
    assert yaml.safe_load(sent["data"]["nightly.yaml"]) == yaml.safe_load(NIGHTLY)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"workers": 0, "deadline_s": 3600}, {"worker": {"gpus": 4}}])
def test_the_definitions_of_kuberay_take_it(nightly: Path, settings: dict[str, Any]) -> None:
    _, resource = ray_cron(nightly, **settings)
    assert not problems_with(resource)
    resource["spec"]["concurrencyPolicy"] = "Forbid"  # which KubeRay does not have
    assert problems_with(resource)


def test_one_night_at_a_time_is_submitted_to_a_cluster_that_runs(nightly: Path) -> None:
    sent, resource = cron(nightly, settings=["steps=7"], tracking_uri="http://mlflow:5000", deadline_s=9000)
    spec = resource["spec"]
    assert (resource["apiVersion"], resource["kind"]) == ("batch/v1", "CronJob")
    assert (spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == ("Forbid", 3600)
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 9000
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == [
        *(
            "viewfold",
            "submit",
            "--address",
            "http://mine-head-svc:8265",
            "--env",
            "MLFLOW_TRACKING_URI=http://mlflow:5000",
        ),
        *("nightly", "nightly.yaml", "steps=7", "--home", "/viewfold/runs"),
    ]
    assert pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsNonRoot"]
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount["mountPath"] == container["workingDir"]
    assert (mount["name"], volume["configMap"]["name"]) == (volume["name"], sent["metadata"]["name"])
    (token,) = [entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if entry["name"] == "RAY_AUTH_TOKEN"]
    assert token == {"name": "mine", "key": "auth_token"}


def test_the_file_goes_with_the_job_and_each_night_is_its_own(
    nightly: Path, monkeypatch: pytest.MonkeyPatch, day: Any
) -> None:
    sent, resource = cron(nightly)
    (container,) = resource["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    words = container["command"][container["command"].index("nightly") :]
    (name,) = sent["data"]
    (nightly.parent / name).write_text(sent["data"][name])
    monkeypatch.chdir(nightly.parent)  # as the pod begins where the ConfigMap is seen
    assert sent_files(words) == [name]
    assert dated(words, day)[-2:] == ("--date", "2031-05-06")


@pytest.fixture
def day() -> Any:
    from datetime import UTC, datetime

    return datetime(2031, 5, 6, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"schedule": "at night"}, "five fields"),
        ({"name": "a" * 31}, "at most 30 characters"),
        ({"settings": ["step=7"]}, "unknown key 'step'"),
        ({"settings": ["settings=[pretrain.workers=9]"]}, r"pretrain\.workers=9: as many processes need a CPU each"),
    ],
)
def test_what_would_fail_at_night_is_refused(nightly: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        ray_cron(nightly, **settings)


@pytest.mark.parametrize(("settings", "says"), [({"cluster": ""}, "cluster"), ({"home": "runs"}, "absolute path")])
def test_what_could_not_be_submitted_is_refused(nightly: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        cron(nightly, **settings)


def test_both_kinds_of_file_are_taken(nightly: Path, tmp_path: Path) -> None:
    settings = tmp_path / "cron.yaml"
    settings.write_text(f"nightly: {nightly}\ncluster: mine\nschedule: '@daily'\n")
    read = scheduled_config(CronJobConfig, str(settings), ["cluster=other"])
    assert (read.nightly, read.cluster, read.schedule) == (str(nightly), "other", "@daily")
    assert scheduled_config(CronJobConfig, str(nightly), ["cluster=other", "schedule='@daily'"]) == read
    with pytest.raises(InvalidInput, match="no such file"):
        scheduled_config(CronJobConfig, "nowhere.yaml", [])


def test_the_commands_print_yaml(nightly: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["cronjob", str(nightly), "cluster=mine"], ["raycronjob", str(nightly)]):
        with pytest.raises(SystemExit) as stopped:
            main(["manifest", *words])
        assert stopped.value.code in (0, None)
        kinds = [document["kind"] for document in yaml.safe_load_all(capsys.readouterr().out)]
        assert kinds[0] == "ConfigMap"
        assert kinds[1].lower() == words[0]


def test_the_example_of_the_docs_is_taken(nightly: Path) -> None:
    text = (CHECKOUT / "docs" / "kubernetes.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (block,) = (block for block in blocks if "nightly" in block)
    assert ray_cron(nightly, **{name: value for name, value in block.items() if name != "nightly"})
