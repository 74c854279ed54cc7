"""Resources for KubeRay: what they ask of a cluster, what is refused, and that the published schemas take them."""

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from kuberay import problems_with

from viewfold.cli import main
from viewfold.config import parse, to_yaml
from viewfold.errors import InvalidInput
from viewfold.jobs.manifest import manifest_config, manifest_text
from viewfold.jobs.manifest_config import ManifestConfig, name_from
from viewfold.jobs.manifest_job import RayJobConfig, rayjob
from viewfold.jobs.manifest_service import RayServiceConfig, rayservice
from viewfold.jobs.recipes import smoke

CHECKOUT = Path(__file__).resolve().parents[1]
GPUS = {"head": {"gpus": 1}, "worker": {"gpus": 8, "cpus": 64, "memory_gib": 512, "shared_memory_gib": 128}}
FULL = {
    **GPUS,
    "name": "nightly-run",
    "namespace": "vision",
    "workers": 4,
    "pull_secrets": ["registry"],
    "secrets": ["bucket", "mlflow"],
    "service_account": "trainer",
    "tracking_uri": "http://mlflow:5000",
    "env": {"NCCL_DEBUG": "INFO", "VIEWFOLD_DATA": "/data"},
    "labels": {"kueue.x-k8s.io/queue-name": "gpus"},
}


def job(**settings: Any) -> list[dict[str, Any]]:
    return rayjob(parse(RayJobConfig, {"recipe": "sie-objects3d", **settings}))


def service(**settings: Any) -> dict[str, Any]:
    (resource,) = rayservice(parse(RayServiceConfig, {"serve": {"source": "runs/mine"}, **settings}))
    return resource


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def containers(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [pod["containers"][0] for pod in pods(cluster)]


def env(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def test_a_recipe_alone_is_a_job_that_cleans_up() -> None:
    (resource,) = job()
    assert (resource["kind"], resource["metadata"]) == ("RayJob", {"name": "sie-objects3d"})
    spec = resource["spec"]
    assert shlex.split(spec["entrypoint"]) == [
        *("viewfold", "run", "sie-objects3d", "--out", "/viewfold/runs/sie-objects3d"),
    ]
    assert spec["shutdownAfterJobFinishes"]
    assert spec["backoffLimit"] == 0


def test_settings_reach_the_run_word_by_word() -> None:
    settings = ["pretrain.steps=7", "name=it's", "data.shards=['s3://b/a b/{0..9}.tar', 's3://b/$x;*.tar']"]
    (resource,) = job(settings=settings)
    words = shlex.split(resource["spec"]["entrypoint"])
    assert words[3:-2] == settings
    assert resource["metadata"]["name"] == "it-s"


def test_the_versions_of_ray_here_and_in_the_image_are_told_apart() -> None:
    pinned = dict(line.split("==") for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if "==" in line)
    version = job()[0]["spec"]["rayClusterSpec"]["rayVersion"]
    assert version.split(".")[:2] == pinned["ray"].split(".")[:2]
    assert job(ray_version="2.58.1")[0]["spec"]["rayClusterSpec"]["rayVersion"] == "2.58.1"


def test_a_file_of_a_recipe_is_sent_along(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(smoke()))
    sent, resource = job(recipe=str(file), namespace="vision")
    spec = resource["spec"]
    assert yaml.safe_load(sent["data"]["recipe.yaml"])["name"] == "smoke"
    assert sent["metadata"] == {"name": "smoke-recipe", "namespace": "vision"}
    path = Path(shlex.split(spec["entrypoint"])[2])
    for pod in pods(spec["rayClusterSpec"]):
        (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == str(path.parent))
        (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
        assert volume["configMap"]["name"] == "smoke-recipe"
        assert path.name in sent["data"]


def test_pods_get_what_they_are_promised() -> None:
    cluster = job(**FULL)[0]["spec"]["rayClusterSpec"]
    head, worker = containers(cluster)
    assert worker["resources"]["limits"] == {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8"}
    assert worker["resources"]["requests"] == worker["resources"]["limits"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 4
    assert env(worker) == env(head)
    assert env(worker)["VIEWFOLD_DATA"] == "/data"  # the user's word goes before ours
    assert env(worker)["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert [entry["secretRef"]["name"] for entry in worker["envFrom"]] == ["bucket", "mlflow"]
    pod = pods(cluster)[1]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["securityContext"]["runAsNonRoot"]


def test_shared_memory_holds_the_object_store() -> None:
    cluster = job(**GPUS)[0]["spec"]["rayClusterSpec"]
    for pod, group in zip(pods(cluster), (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]), strict=True):
        (shm,) = (mount for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == "/dev/shm")
        (volume,) = (v for v in pod["volumes"] if v["name"] == shm["name"])
        assert volume["emptyDir"]["medium"] == "Memory"
        size = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi")) * 2**30
        assert 0.5 * size < int(group["rayStartParams"]["object-store-memory"]) < 0.9 * size


def test_the_cache_of_shards_fits_its_volume() -> None:
    (pod, _) = pods(job(cache_gb=200)[0]["spec"]["rayClusterSpec"])
    (volume,) = (v for v in pod["volumes"] if v["name"] == "cache")
    assert env(pod["containers"][0])["VIEWFOLD_CACHE_BYTES"] == "200GB"
    assert int(volume["emptyDir"]["sizeLimit"].removesuffix("G")) > 200


def test_only_a_head_without_workers_is_given_work() -> None:
    with_workers, alone = (job(workers=count)[0]["spec"]["rayClusterSpec"] for count in (1, 0))
    assert with_workers["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "num-cpus" not in alone["headGroupSpec"]["rayStartParams"]
    assert alone["workerGroupSpecs"] == []


def test_the_cluster_asks_for_a_token() -> None:
    assert job()[0]["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert service()["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"settings": ["pretrain.workers=9"]}, "pretrain.workers=9: as many processes need a CPU each"),
        ({**GPUS, "settings": ["pretrain.workers=9"]}, "pretrain.workers=9: as many processes need a GPU each"),
        ({"recipe": "emoji-demo", "settings": ["embed.actors=5"]}, "embed.actors=5"),
        ({"recipe": "sie-object3d"}, "did you mean 'sie-objects3d'"),
        ({"settings": ["pretrain.step=5"]}, "unknown key 'pretrain.step'"),
        ({"head": {"shared_memory_gib": 16}}, "shared_memory_gib=16 must be less than memory_gib=16"),
        ({"name": "My_Run"}, "small letters"),
        ({"mount": "data"}, "absolute path"),
        ({"image": ""}, "cannot be empty"),
        ({"replicas": 3}, "unknown key 'replicas'"),
    ],
)
def test_what_could_not_run_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        job(**settings)


def test_a_head_without_a_gpu_leads_workers_that_have_some() -> None:
    head, worker = containers(job(worker={"gpus": 4})[0]["spec"]["rayClusterSpec"])
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_an_elastic_training_needs_its_fewest_workers() -> None:
    settings = ["pretrain.workers=16", "pretrain.min_workers=4"]
    assert job(workers=1, settings=settings)
    with pytest.raises(InvalidInput, match=r"pretrain\.workers=4"):
        job(worker={"cpus": 3}, settings=settings)


def test_names_are_made_from_anything() -> None:
    parse(ManifestConfig, {"image": "a", "name": name_from("3DIEBench (full)_" + 50 * "x")})
    assert name_from("SIE_objects.v2") == "sie-objects-v2"


def test_a_service_is_found_ready_where_its_proxy_answers() -> None:
    head, worker = containers(
        service(serve={"source": "runs/mine", "service": {"port": 9000}})["spec"]["rayClusterConfig"]
    )
    assert worker["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": "serve"}
    for container in (head, worker):
        assert {"name": "serve", "containerPort": 9000} in container["ports"]
    assert {"dashboard", "gcs-server"} <= {port["name"] for port in head["ports"]}


def test_a_service_serves_what_the_pods_see() -> None:
    resource = service(mount="/mnt/vf", keys_secret="who-may-ask")
    config = yaml.safe_load(resource["spec"]["serveConfigV2"])
    (app,) = config["applications"]
    assert config["proxy_location"] == "EveryNode"
    assert config["http_options"]["host"] == app["args"]["service"]["host"] == "0.0.0.0"
    assert app["deployments"] == [{"name": "Service", "user_config": {"source": "/mnt/vf/runs/mine"}}]
    assert app["args"]["home"] == "/mnt/vf/runs"
    keys = Path(app["args"]["service"]["keys_file"])
    for pod in pods(resource["spec"]["rayClusterConfig"]):
        (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == str(keys.parent))
        (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
        assert volume["secret"]["secretName"] == "who-may-ask"


@pytest.mark.parametrize("source", ["models:/mine@champion", "/elsewhere/runs/mine"])
def test_other_sources_stay_what_they_are(source: str) -> None:
    config = yaml.safe_load(service(serve={"source": source})["spec"]["serveConfigV2"])
    assert config["applications"][0]["deployments"][0]["user_config"] == {"source": source}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"serve": {"source": "a", "parts": 8}}, "10 deployments of 1 CPUs do not fit into 1 pods of 4"),
        ({"serve": {"source": "a", "replica_cpus": 5}, "workers": 9}, "do not fit"),
        ({"serve": {"source": "a", "encoder_gpus": 1}}, "raise worker.gpus"),
        ({"serve": {"source": "a", "service": {"keys_file": "k"}}}, "keys_secret"),
        ({"serve": {"source": "a", "service": {"port": 0}}}, "fixed one"),
        ({"serve": {}}, "serve.source: this key is required"),
    ],
)
def test_what_could_not_serve_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        service(**settings)


def test_a_file_and_a_name_are_both_settings(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("recipe: smoke\nworkers: 2\nworker: {cpus: 8}\n")
    read = manifest_config(RayJobConfig, str(file), "recipe", ["workers=3"])
    assert (read.recipe, read.workers, read.worker.cpus) == ("smoke", 3, 8)
    assert manifest_config(RayJobConfig, "smoke", "recipe", ["workers=3", "worker.cpus=8"]) == read
    named = manifest_config(RayServiceConfig, "runs/mine", "serve.source", ["serve.parts=2"])
    assert (named.serve.source, named.serve.parts) == ("runs/mine", 2)


def test_the_text_reads_back_with_nothing_shared_or_folded() -> None:
    resource = service(**GPUS)
    text = manifest_text([resource])
    assert yaml.safe_load(text) == resource
    assert "&id" not in text
    assert "serveConfigV2: |\n" in text


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "job.yaml"
    for arguments in (["manifest", "rayjob", "smoke"], ["manifest", "rayjob", "smoke", "-o", str(file)]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code in (0, None)
    assert capsys.readouterr().out == file.read_text()
    with pytest.raises(SystemExit):
        main(["manifest", "rayjob", "nowhere.yaml"])
    assert "nowhere.yaml: no such file" in capsys.readouterr().err


def test_the_examples_of_the_docs_are_taken() -> None:
    text = (CHECKOUT / "docs" / "kubernetes.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (run,) = (block for block in blocks if "recipe" in block)
    (served,) = (block for block in blocks if "serve" in block)
    assert job(**{**run, "recipe": "emoji-demo"})
    assert service(**served)


@pytest.mark.parametrize(("role", "config"), [("train", RayJobConfig), ("serve", RayServiceConfig)])
def test_an_image_holds_what_its_pods_need(role: str, config: type[ManifestConfig]) -> None:
    name, text = f"{role}.Dockerfile", (CHECKOUT / "deploy" / "docker" / f"{role}.Dockerfile").read_text()
    (image,) = (entry.default for entry in fields(config) if entry.name == "image")
    assert f"docker build -f deploy/docker/{name} -t {image} ." in text
    assert re.findall(r"^USER (\d+)$", text, re.M) == ["1000"]
    assert "--yes" in text
    assert " wget " in text
    installs = re.findall(r"pip install (.*)", text)
    assert all("--constraint constraints.txt" in line for line in installs)
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(.*)$", text, re.M)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for word in line.split()]
    assert all((CHECKOUT / word).exists() for word in copied)
    assert {project["readme"], *project["license-files"]} <= set(copied)  # the build of the package reads them


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"workers": 0}, {**FULL, "deadline_s": 3600}], ids=["plain", "alone", "full"])
@pytest.mark.parametrize("kind", ["RayJob", "RayService"])
def test_the_definitions_of_kuberay_take_every_resource(kind: str, settings: dict[str, Any]) -> None:
    if kind == "RayJob":
        resource = job(**settings)[-1]
    else:
        resource = service(**{name: value for name, value in settings.items() if name != "deadline_s"})
    assert not problems_with(resource)
    resource["spec"]["shutdown"] = True  # and the check itself sees a field that is not there
    assert problems_with(resource)
