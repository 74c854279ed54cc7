"""Nights whose training is done, over pairs of random weights in a registry: what is left are the phases after it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from serve_process import IMAGE_PX, LABELS, write_pair
from tiny import encode, write_images

from viewfold.config import dump, parse
from viewfold.jobs.data import shard_stamps
from viewfold.jobs.nightly import nightly
from viewfold.jobs.nightly_canary import CANARIES
from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_look import Look, recipe_mark
from viewfold.jobs.nightly_night import Night, begin
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry

DAY = "2026-03-01"
GATES = dict.fromkeys(("knn", "precision", "rotation_r2", "effective_rank", "shift_consistency"))


@dataclass(frozen=True)
class Home:
    """A folder with a registry in which a pair is version 1 of `seed`, and another one version 2."""

    folder: Path
    registry: Registry

    def model(self, name: str, *, champion: bool = True, first: Path | None = None) -> None:
        """A model whose version 1, if there is one, is champion, and whose newest is the challenger of a night.

        `first` is the run folder of version 1, where it is to be its own.
        """
        self.registry.client.create_registered_model(name)
        if champion:
            self.version(name, "1", first or self.folder / "first")
            self.registry.point(name, CHAMPION, "1")
        night = self.folder / "nightly" / name / self.night_name()
        shutil.copytree(self.folder / "second", night / "run")
        made = self.version(name, "2", night / "run")
        self.registry.point(name, CHALLENGER, made)

    def night(self, config: NightlyConfig, *, champion: str | None = "1", day: str = DAY) -> Night:
        """The night of `model`, cut when its training was over."""
        folder = self.folder / "nightly" / config.name / self.night_name(day)
        canaries = folder / "canaries"
        canaries.mkdir(parents=True)
        known = []
        for number in range(4):
            pixels = np.random.default_rng(number).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
            file, label = f"{number:04d}.image", LABELS[number % len(LABELS)]
            (canaries / file).write_bytes(encode(Image.fromarray(pixels), "PNG"))
            known.append({"key": f"canary-{number}", "label": label, "file": file})
        (canaries / CANARIES).write_text(json.dumps(known))
        asked = {"fingerprint": recipe_mark(config), "shards": [str(self.folder / "data")]}
        seen = {"date": day, "hash": self.hash(), "asked": asked, "stamps": self.stamps()}
        night = begin(folder, **seen, champion=champion, replay=[], forced="")
        night.keep("run", {"version": "2" if champion else "1", "line": "made"})
        return night

    def stamps(self) -> dict[str, str]:
        """Of the shards as they are now."""
        return shard_stamps((str(self.folder / "data"),))

    def hash(self) -> str:
        """Of the same."""
        return Look({}, self.stamps()).hash

    def night_name(self, day: str = DAY) -> str:
        """Its folder."""
        return f"{day}-{self.hash()}"

    def start(self, config: NightlyConfig, day: str = DAY) -> tuple[int, list[str]]:
        """The verb; its exit code and what it said."""
        said: list[str] = []
        return nightly(config, home=self.folder, day=day, say=said.append), said

    def champion(self, name: str) -> str | None:
        """The version that is champion."""
        found = self.registry.find(name, CHAMPION)
        return None if found is None else found.version

    def version(self, name: str, of: str, run: Path) -> str:
        """A new version: the pair `of`, as if it had been made in `run`."""
        known = self.registry.facts(f"models:/seed/{of}")
        tags = {**known.tags, "run_folder": str(run.resolve()), "bundle": str((run / "index" / "bundle").resolve())}
        source = self.registry.client.get_model_version_download_uri("seed", of)
        return str(self.registry.client.create_model_version(name, source=source, tags=tags).version)


def make_home(folder: Path) -> Home:
    """Two pairs, registered, and two shards of data."""
    registry = Registry(folder)
    write_images(folder / "data", samples=8, per_shard=4)
    for seed, name in enumerate(("first", "second")):
        register_pair(registry, "seed", folder / name, seed=seed)
    return Home(folder, registry)


def register_pair(registry: Registry, name: str, run: Path, *, seed: int, alias: str = "seed") -> None:
    """A run folder with an encoder of random weights and an index, registered."""
    info = write_pair(run, seed=seed, rows=60, domains=("here", "there")).info
    tags = {"encoder_id": info.encoder_id, "bundle_id": info.id, "run": run.name, "manifest_hash": info.manifest_hash}
    tags |= {"run_folder": str(run.resolve()), "bundle": str((run / "index" / "bundle").resolve())}
    files = {"encoder": run / "pretrain" / "encoder"}
    with registry.run("viewfold", run.name, params={}, tags=tags) as tracked:
        registry.register(name, files, dim=info.dim, run=tracked, tags=tags, alias=alias)


def settings(name: str, **changed: Any) -> NightlyConfig:
    """A configuration without gates for the encoder, whose canaries ask for no precision."""
    plain = {"name": name, "recipe": "smoke", "gates": GATES, "canary": {"images": 4, "k": 2, "min_precision": 0.0}}
    return parse(NightlyConfig, {**plain, **changed})


def with_settings(config: NightlyConfig, **changed: Any) -> NightlyConfig:
    """The same with other settings."""
    return parse(NightlyConfig, {**dump(config), **changed})


def lines(said: Sequence[str], word: str) -> list[str]:
    """Those that begin with a word."""
    return [line for line in said if line.startswith(word)]
