"""Measuring encoders on shards: what is frozen, which protocols answer, what the card holds."""

import copy
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import write_images, write_objects, write_tar

from viewfold.cli import main
from viewfold.jobs.evaluate import Candidate, evaluate_encoders
from viewfold.jobs.evaluate_config import EvaluateConfig
from viewfold.jobs.freeze import freeze, freeze_pair, translated
from viewfold.jobs.protocols import PROTOCOLS, Subject, classes
from viewfold.pipeline.images import read_images
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder
from viewfold.ssl.evaluate import PairProbeConfig
from viewfold.ssl.kept_head import save_head
from viewfold.ssl.methods import SIE, SIEConfig, Task

QUICK = EvaluateConfig(
    k=1, pairs_per_object=4, probe=PairProbeConfig(hidden=8, steps=5), curve_images=6, robust_crop=24
)
POSE = tuple(f"latent_{column}" for column in range(7))


def small_encoder(equivariant_dim: int = 64) -> Encoder:
    torch.manual_seed(0)
    preprocessing = Preprocessing(image_size=32)
    config = EncoderConfig(backbone="resnet-small", equivariant_dim=equivariant_dim, preprocessing=preprocessing)
    return Encoder(config).eval()


def test_indices_are_translated_by_name() -> None:
    indices = np.array([0, 1, 2, -1])
    assert translated(indices, ["bird", "cat", "dog"], ["ant", "cat", "bird"]).tolist() == [2, 1, 3, -1]


def manifests(folder: Path) -> tuple[ShardManifest, ShardManifest]:
    """24 images of three classes, and a manifest of its own for those of the last class."""
    everything = index_shards(write_images(folder / "all", samples=24, labels=3), folder / "all")
    keys = {everything.samples.key(row) for row in range(24) if everything.label[row] == 2}
    only = folder / "only" / "only.tar"
    only.parent.mkdir()
    with tarfile.open(only, "w") as out:
        for shard in sorted((folder / "all").glob("*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.name.partition(".")[0] in keys:
                        out.addfile(member, tar.extractfile(member))
    return everything, index_shards([only], folder / "only")


def test_the_same_images_under_a_smaller_vocabulary_are_still_recognised(tmp_path: Path) -> None:
    everything, alone = manifests(tmp_path)
    assert (len(everything.labels), len(alone.labels)) == (3, 1)
    known, asked = freeze_pair(small_encoder(), everything, alone)
    found = {one.name: one for one in classes(Subject(known, asked, None, ("invariant",), QUICK))}
    assert found["invariant/knn1/top1"].value == 1.0
    # Groups mean the same in both: each thing is drawn once in each of two domains.
    assert [everything.groups[index] for index in asked.group] == [alone.groups[index] for index in alone.group]
    assert (asked.group[:, None] == known.group[None, :]).sum(axis=1).tolist() == [2] * len(alone)


def test_batch_statistics_change_the_features_and_keep_their_order(tmp_path: Path) -> None:
    objects = index_shards(write_objects(tmp_path, objects=12, views=4), tmp_path)
    encoder = small_encoder()
    plain, _ = freeze_pair(encoder, objects, objects)
    known, asked = freeze_pair(encoder, objects, objects, bn_mode="official")
    again = torch.from_numpy(np.argsort(known.sample, kind="stable"))
    assert known.latents is not None
    assert plain.latents is not None
    torch.testing.assert_close(known.latents[again], plain.latents)
    (images,) = read_images(objects, np.arange(len(objects)), image_size=32, batch_size=48)
    with torch.no_grad():  # one batch holds all of them, so its statistics do not depend on their order
        expected = copy.deepcopy(encoder).train()(images.images.float() / 255)
    torch.testing.assert_close(known.features.all[again], expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, plain.features.all)
    assert not torch.allclose(asked.features.all, plain.features.all)  # by the statistics that have drifted


def test_every_stored_image_is_a_row(tmp_path: Path) -> None:
    objects = index_shards(write_objects(tmp_path, objects=5, views=4), tmp_path)
    frozen = freeze(small_encoder(), objects)
    assert frozen.sample.tolist() == np.repeat(np.arange(5), 4).tolist()
    assert len(frozen.features.all) == 20
    assert frozen.latents is not None
    assert frozen.latents.shape == (20, 7)


def saved(folder: Path) -> Path:
    """An untrained SIE encoder with its head."""
    encoder = small_encoder()
    method = SIE.build(SIEConfig(expander_widths=(8, 8)), encoder, Task(POSE, 0))
    identity = save_encoder(encoder, folder, lineage={"seed": 0})
    assert method.head is not None
    save_head(method.head.config, method.state_dict(), folder, encoder_id=identity)
    return folder


@pytest.mark.slow
def test_a_card_of_objects_has_every_measure_with_its_chance(tmp_path: Path) -> None:
    objects = index_shards(write_objects(tmp_path / "objects", objects=12, views=4), tmp_path / "objects")
    mine = Candidate.load(saved(tmp_path / "encoder"))
    candidates = {"trained": mine, "untrained": mine.untrained()}
    card = evaluate_encoders(candidates, train=objects, val=objects, config=QUICK, out=tmp_path)
    assert json.loads((tmp_path / "card.json").read_text()) == json.loads(json.dumps(card))
    trained = {measure["name"]: measure for measure in card["measures"]["trained"]}
    expected = {
        "all/linear/top1", "equivariant/rotation/r2", "invariant/colour/r2", "equivariant/retrieval/mrr",
        "equivariant/retrieval/pre", "all/fitted_retrieval/mrr", "invariant/clusters/ami", "invariant/alignment",
        "invariant/uniformity", "invariant/effective_rank", "invariant/curve/jpeg", "equivariant/curve/rotation",
        "invariant/shift/consistency", "invariant/robust_shift/consistency",
    }  # fmt: skip
    assert expected <= set(trained)
    assert all(np.isfinite([measure["value"], measure["chance"]]).all() for measure in trained.values())
    assert {skip["what"] for skip in card["skipped"]} == {"domains", "outside"}
    assert (tmp_path / "card.html").read_text().count("<h1") == 1


@pytest.mark.slow
def test_single_images_with_domains_skip_what_needs_poses(tmp_path: Path) -> None:
    images = index_shards(write_images(tmp_path, samples=36, domains=3), tmp_path)
    known, asked = images.subset(without_domains=["style-2"]), images.subset(domains=["style-2"])
    card = evaluate_encoders(
        {"trained": Candidate(small_encoder(0))}, train=known, val=asked, config=QUICK, out=tmp_path
    )
    names = {measure["name"] for measure in card["measures"]["trained"]}
    assert {"invariant/domains/gap", "invariant/detection/knn_auroc"} <= names
    assert not any(name.startswith(("all/", "equivariant/")) or "/r2" in name for name in names)
    assert {skip["what"] for skip in card["skipped"]} == {"rotation", "colour", "retrieval", "fitted retrieval"}
    assert set(PROTOCOLS) > {skip["what"] for skip in card["skipped"]}


def test_a_robust_crop_as_large_as_the_image_is_refused(tmp_path: Path) -> None:
    images = index_shards(write_images(tmp_path), tmp_path)
    with pytest.raises(ValueError, match="robust_crop=32: must be smaller than the encoder's 32 px"):
        evaluate_encoders(
            {"trained": Candidate(small_encoder())},
            train=images,
            val=images,
            config=replace(QUICK, robust_crop=32),
            out=tmp_path,
        )


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command line answers with."""
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_the_verb_refuses_what_it_cannot_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, home = str(saved(tmp_path / "encoder")), f"--home={tmp_path}"
    assert "name the labelled shards" in refusal(["evaluate", encoder, home], capsys)
    assert "no encoder there" in refusal(["evaluate", "nothing", "demo:objects-val", home], capsys)
    assert "robust_crops" in refusal(["evaluate", encoder, "demo:objects-val", "robust_crops=3", home], capsys)
    assert "holds other things" in refusal(["evaluate", encoder, "demo:objects-val", f"--out={tmp_path}", home], capsys)
    assert "recipe" in refusal(["evaluate", "nothing", home], capsys)


@pytest.mark.heavy
@pytest.mark.slow
def test_the_verb_writes_a_card_and_logs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    write_objects(tmp_path / "shards", objects=12, views=4)
    encoder, home, out = saved(tmp_path / "run" / "pretrain" / "encoder"), tmp_path / "home", tmp_path / "card"
    settings = ["k=1", "pairs_per_object=4", "probe.hidden=8", "probe.steps=5", "curve_images=4"]
    words = ["evaluate", str(tmp_path / "run"), str(tmp_path / "shards"), *settings, "--robust-crop", "24"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--against", str(encoder), f"--home={home}", f"--out={out}"])
    assert stopped.value.code == 0
    assert str(out / "card.html") in capsys.readouterr().out
    card = json.loads((out / "card.json").read_text())
    assert list(card["measures"]) == ["trained", "against", "untrained"]
    # The same encoder twice: the same numbers.
    assert card["measures"]["trained"] == card["measures"]["against"]
    # Heads are fitted on one half of the objects, the other half is asked.
    assert card["data"]["train"]["samples"] + card["data"]["val"]["samples"] == 12
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("viewfold")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    knn = next(one for one in card["measures"]["trained"] if one["name"] == "invariant/knn1/top1")
    assert run.data.metrics["invariant/knn1/top1"] == pytest.approx(knn["value"])
    assert {file.path for file in client.list_artifacts(run.info.run_id, "card")} == {
        "card/card.json",
        "card/card.html",
    }


def test_samples_without_a_group_stand_for_themselves(tmp_path: Path) -> None:
    shards = write_objects(tmp_path, objects=6, views=3)
    for shard in shards:
        remake(shard, lambda about: {name: value for name, value in about.items() if name != "group"})
    objects = index_shards(shards, tmp_path)
    known, asked = freeze_pair(small_encoder(), objects, objects)
    assert not known.grouped
    assert [len(set(known.group[known.sample == sample])) for sample in range(6)] == [1] * 6
    assert len(set(known.group)) == 6
    assert not set(known.group) & set(asked.group)  # nothing says that they are the same things


def test_what_the_data_cannot_show_costs_no_other_measure(tmp_path: Path) -> None:
    """One class, one group, and latents that are not 3DIEBench's."""
    shards = write_objects(tmp_path, objects=6, views=3)
    for shard in shards:
        remake(shard, lambda about: {"label": "one", "group": "one", "latents": [row[:2] for row in about["latents"]]})
    objects = index_shards(shards, tmp_path)
    quick = replace(QUICK, curve_images=0, robust_crop=0)
    candidates = {"trained": Candidate(small_encoder(256))}  # and no invariant part
    card = evaluate_encoders(candidates, train=objects, val=objects, config=quick, out=tmp_path)
    why = {one["what"]: one["why"] for one in card["skipped"]}
    assert "single class" in why["classes"]
    assert "latent_2" in why["rotation"]
    assert why["clusters"] == why["domains"] == "the encoder has no invariant part"
    assert why["curves"] == "curve_images is 0"


def remake(shard: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Rewrite a shard with other JSON."""
    with tarfile.open(shard) as tar:
        members = [(member.name, tar.extractfile(member)) for member in tar]
        data = [(name, file.read()) for name, file in members if file is not None]
    write_tar(
        shard,
        [(n, json.dumps(change(json.loads(d))).encode() if n.endswith(".json") else d) for n, d in data],
    )
