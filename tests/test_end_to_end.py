"""From shipped images to demonstrations through every stage, with the real engines, as a person would run it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viewfold.cli import main
from viewfold.jobs.recipes import find
from viewfold.jobs.registry import Registry
from viewfold.jobs.run import run_recipe
from viewfold.pipeline.images import read_images
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.stage import StageRecord
from viewfold.retrieval import FeatureSet, IndexBundle
from viewfold.ssl.encoder import load_encoder

pytestmark = [pytest.mark.heavy, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Path:
    """A finished smoke run, with its registry beside it."""
    run = tmp_path_factory.mktemp("runs") / "smoke"
    run_recipe(find("smoke", []), run)
    return run


def made(records: dict[str, StageRecord]) -> set[str]:
    """The stages that were not found finished."""
    return {name for name, record in records.items() if not record.reused}


def test_a_second_run_finds_every_stage_and_a_deleted_artifact_is_made_again(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "smoke"
    shutil.copytree(folder, run)
    config = find("smoke", [])
    assert made(run_recipe(config, run)) == set()
    (run / "index" / "bundle" / "index.faiss").unlink()
    assert made(run_recipe(config, run)) == {"index", "register", "compare"}
    (run / "evaluate" / "card.json").unlink()
    # The card is part of the bundle, so the index depends on it; nothing is trained or embedded again.
    assert made(run_recipe(config, run)) == {"evaluate", "index", "register", "compare"}


def test_one_lineage_runs_from_the_shards_to_the_index(folder: Path) -> None:
    manifest = ShardManifest.load(folder / "data")
    encoder = load_encoder(folder / "adapt" / "encoder")
    bundle = IndexBundle.open(folder / "index" / "bundle", encoder_id=encoder.id)
    assert bundle.info.manifest_hash == manifest.hash
    registered = json.loads((folder / "register" / "registered.json").read_text())
    assert registered["encoder_id"] == encoder.id
    assert registered["bundle_id"] == bundle.info.id
    assert "twemoji" not in set(bundle.column("domain"))
    body = json.loads((folder / "adapt" / "encoder" / "encoder.json").read_text())
    assert body["lineage"]["start"] == load_encoder(folder / "pretrain" / "encoder").id


def test_the_card_travels_with_the_registered_model(folder: Path) -> None:
    version = Registry(folder.parent).resolve("models:/viewfold-smoke@champion")
    (card,) = version.encoder.parent.glob("card.json")
    assert card.read_bytes() == (folder / "evaluate" / "card.json").read_bytes()
    assert (card.parent / "card.html").is_file()
    body = json.loads(card.read_text())
    assert body["encoders"]["trained"]["id"] == load_encoder(version.encoder).id


def test_features_of_the_actors_are_those_of_the_encoder_in_this_process(folder: Path) -> None:
    manifest, encoder = ShardManifest.load(folder / "data"), load_encoder(folder / "adapt" / "encoder")
    features = FeatureSet.load(folder / "embed" / "adapted", encoder_id=encoder.id)
    rows = [0, 17, 899]
    (batch,) = read_images(manifest, rows, image_size=64, batch_size=3)
    assert [features.keys[row] for row in rows] == batch.keys
    np.testing.assert_allclose(features.vectors[rows], encoder.encode(batch.images).invariant.numpy(), atol=1e-4)


def test_metrics_rows_name_every_term_and_count_every_sample(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert rows[-1]["samples"] == 4 * 64
    assert {"loss", "invariance", "equivariance", "variance", "covariance", "samples_s", "data_wait"} <= set(rows[0])
    assert {"effective_rank/invariant", "spread/equivariant"} <= set(rows[0])


def test_the_tracking_server_has_the_metrics_and_the_champion(folder: Path) -> None:
    from viewfold.jobs.registry import Registry

    registry = Registry(folder.parent)
    version = registry.resolve("models:/viewfold-smoke@champion")
    assert load_encoder(version.encoder).id == version.tags["encoder_id"]
    experiment = registry.client.get_experiment_by_name("viewfold")
    assert experiment is not None
    runs = registry.client.search_runs([experiment.experiment_id])
    pretrain = next(run for run in runs if run.info.run_name.endswith("pretrain"))
    history = registry.client.get_metric_history(pretrain.info.run_id, "loss")
    assert [metric.step for metric in history] == [2, 4]
    assert pretrain.data.params["stream.batch_size"] == "64"


def test_the_registered_model_answers_in_a_clean_process_for_any_batch_size(folder: Path) -> None:
    code = (
        "import mlflow, numpy as np\n"
        f"mlflow.set_tracking_uri('sqlite:///{folder.parent / 'mlflow.db'}')\n"
        "model = mlflow.pyfunc.load_model('models:/viewfold-smoke@champion')\n"
        "print([model.predict(np.zeros((n, 64, 64, 3), dtype=np.uint8)).shape for n in (1, 3)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[(1, 192), (3, 192)]", done.stderr


def test_registering_leaves_the_environment_as_it_was(folder: Path) -> None:
    assert not [name for name in os.environ if name in {"MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"}]


def test_a_registered_model_holds_no_pickle(folder: Path) -> None:
    files = [path for path in (folder.parent / "mlartifacts").rglob("*") if path.is_file()]
    assert any(path.name == "encoder.safetensors" for path in files)
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin"}]


def test_an_image_gets_its_demonstrations_from_the_run_and_from_the_registry(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = ShardManifest.load(folder / "data").subset(domains=["twemoji"])
    (batch,) = read_images(manifest, [0], image_size=64, batch_size=1)
    image, sheet = tmp_path / "query.png", tmp_path / "sheet.png"
    Image.fromarray(batch.images[0].permute(1, 2, 0).numpy()).save(image)
    answers = []
    for source in (str(folder), "models:/viewfold-smoke@champion"):
        with pytest.raises(SystemExit) as stopped:
            main(["ask", str(image), "-k", "5", "--from", source, "--home", str(folder.parent), "--sheet", str(sheet)])
        assert stopped.value.code in (0, None)
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert len([line for line in answers[0].splitlines() if line.strip()[:1].isdigit()]) == 5
    with Image.open(sheet) as picture:
        assert picture.width > 500


def test_an_index_beside_another_encoder_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mixed"
    shutil.copytree(folder / "pretrain" / "encoder", run / "adapt" / "encoder")
    shutil.copytree(folder / "index", run / "index")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "x.png")
    with pytest.raises(SystemExit) as stopped:
        main(["ask", str(tmp_path / "x.png"), "--from", str(run)])
    line = capsys.readouterr().err
    assert stopped.value.code == 2
    assert line.count("\n") == 1
    for stage in ("adapt", "pretrain"):
        assert str(load_encoder(folder / stage / "encoder").id) in line


def test_a_batch_that_does_not_divide_over_the_workers_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_local: None
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "smoke", "pretrain.stream.batch_size=63", "--out", str(out)])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert lines[-1].startswith("error: batch_size=63 does not divide over 2 ranks; use 62 or 64")
    assert not (out / "pretrain").exists()


def test_a_run_whose_driver_was_killed_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "viewfold.cli", "pretrain", "smoke", "--out", str(out)]
    command += [
        "pretrain.steps=400",
        "pretrain.log_every=1",
        "pretrain.checkpoint_every=5",
        "pretrain.stream.batch_size=16",
    ]
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    checkpoints = out / "pretrain.part" / "checkpoints"
    deadline = time.monotonic() + 300
    while len(found := sorted(int(p.name[5:]) for p in checkpoints.glob("step-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert len(found) == 2, f"no two checkpoints within the time: {found}"
    kept = found[0]  # the newer one may not have been whole yet
    metrics = out / "pretrain.part" / "metrics.jsonl"
    before = [json.loads(line) for line in metrics.read_text().splitlines() if line.endswith("}")]
    subprocess.run(command, check=True, timeout=600)
    rows = [json.loads(line) for line in (out / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 401))
    # What was done before the kept checkpoint was not done again.
    assert rows[:kept] == before[:kept]


def test_ctrl_c_ends_a_training_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "viewfold.cli", "pretrain", "smoke", "--out", str(out), "pretrain.steps=4000"]
    running = subprocess.Popen([*command, "pretrain.log_every=1"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (out / "pretrain.part" / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, lines = running.communicate(timeout=300)
    assert running.returncode == 130, lines
    assert lines.splitlines()[-1].startswith("interrupted; the same command goes on")
    assert "Traceback" not in lines
