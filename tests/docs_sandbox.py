"""The folder in which the documentation's commands are run: images, shards, a finished run, a registry, settings."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tiny import colour, draw, encode

from viewfold.cli import main
from viewfold.jobs.notebook import embed_shards
from viewfold.jobs.registry import CHALLENGER, CHAMPION, Registry
from viewfold.ssl.encoder import load_encoder

LABELS = ("bolts", "nuts", "screws")
IMAGES = 8
FINISHED = "mine.yaml"
"""The settings of the run that is there, `runs/mine`."""
CLIP = "CLIP.mp4"
SERVED = re.compile(r"(?:http://)?(?:127\.0\.0\.1|localhost):8000")
"""Where a page finds the service that it has started."""

RUN = """\
name: mine
data: {shards: [shards]}
validation: {shards: [shards]}
encoder: {backbone: resnet-small, equivariant_dim: 32, preprocessing: {image_size: 64}}
pretrain:
  method: {name: sie, transformation: drawn, expander_widths: [16, 16]}
  policy: {name: affine-colour}
  stream: {batch_size: 8, ledger: ledger}
  steps: 12
evaluate: {curve_images: 0}
embed: {}
index: {}
register_as: mine
"""
SETTINGS = {
    FINISHED: RUN,
    "parts.yaml": RUN,
    "nightly.yaml": "name: mine\nrecipe: mine.yaml\nsteps: 12\n",
    "gates.yaml": "knn: {at_least: 0.1}\nprecision: {required: true}\n",
    "job.yaml": "recipe: mine.yaml\n",
    "service.yaml": "serve: {source: runs/mine}\n",
}
"""Files that the pages name as the reader's own."""

CSVS = {
    "labels.csv": "image,diagnosis,scanner,patient",
    "photos.csv": "file,class,scanner,patient",
    "pool.csv": "image,label,domain,group",
}
"""Tables of the images in PHOTOS, by the headers that pages say they have."""

STANDS_FOR = {
    "BUNDLE": "bundles/today",
    "ENCODER": "runs/mine/pretrain/encoder",
    "FEATURES": "features",
    "FOLDER": "folder",
    "IMAGE": "PHOTO.png",
    "KEY": "bolts/0",
    "NAME": "mine",
    "SHARD": "images-000000",
    "SHARDS": "shards",
}
"""Words in capitals that the reader is to replace."""
_PLACEHOLDER = re.compile(rf"(?<![\w.])({'|'.join(sorted(STANDS_FOR, key=len, reverse=True))})(?![\w.=])")


def meant(word: str) -> str:
    """The word with what the reader is to replace replaced."""
    return _PLACEHOLDER.sub(lambda found: STANDS_FOR[found[1]], word)


def write_settings(folder: Path) -> None:
    """The reader's own YAML files."""
    for name, text in SETTINGS.items():
        (folder / name).write_text(text, encoding="utf-8")


def make_sandbox(folder: Path) -> None:
    """Everything that the pages take for granted, made by the verbs themselves; the working folder is `folder`.

    One training of 12 steps; `mine` is a model of two versions, of which the later one is champion.
    """
    write_settings(folder)
    _write_pictures(folder)
    call("data", "import", "PHOTOS", "--csv", "pool.csv", "--out", "shards")
    call("run", FINISHED, "--out", "runs/mine")
    shutil.copytree("runs/mine", "runs/next")
    call("run", FINISHED, "alias=challenger", "--out", "runs/next")
    call("promote", "mine", "--force")
    call("data", "import", "MORE", "--out", "more")
    embed_shards(load_encoder("runs/mine/pretrain/encoder"), "more").save(folder / "features")


def make_ready(folder: Path) -> None:
    """What a page may change, as it finds it: a bundle, and the version that is to be judged."""
    shutil.copytree(folder / "runs" / "mine" / "index" / "bundle", folder / "bundles" / "today")
    registry = Registry(folder / "runs")
    registry.point("mine", CHAMPION, "2")
    registry.point("mine", CHALLENGER, "1")


def call(*words: str, allowed: Sequence[int] = (0,)) -> None:
    """The command line in this process."""
    code: object = 0
    try:
        main(words)
    except SystemExit as stopped:
        code = stopped.code or 0
    assert code in allowed, f"viewfold {' '.join(words)}: exit code {code}"


def _write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number, label in enumerate(LABELS):
        for image in range(IMAGES + 4):
            ground, ink = colour(image % IMAGES / IMAGES, 0.35), colour(number / len(LABELS), 0.9)
            picture = draw(number, rng.uniform(-0.4, 0.4, 3), ground=ground, ink=ink, size=64)
            file = folder / ("PHOTOS" if image < IMAGES else "MORE") / label / f"{image}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(picture, "PNG"))
            if image < IMAGES:
                rows.append((f"{label}/{image}.png", label, f"plant-{image % 2}", f"part-{number}-{image // 2}"))
    for name, header in CSVS.items():
        lines = [header, *(",".join(row) for row in rows)]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    picture = draw(1, np.zeros(3), ground=(40, 90, 60), ink=(200, 80, 20), size=64)
    (folder / "PHOTO.png").write_bytes(encode(picture, "PNG"))
    (folder / "photo.jpg").write_bytes(encode(picture, "JPEG"))
    _write_clip(folder / CLIP)


def _write_clip(path: Path) -> None:
    """A square with a pattern on it that crosses another pattern."""
    rng = np.random.default_rng(0)
    ground, thing = rng.integers(0, 256, (240, 320, 3), np.uint8), rng.integers(0, 256, (60, 60, 3), np.uint8)
    ground, thing = cv2.blur(ground, (5, 5)), cv2.blur(thing, (5, 5))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (320, 240))
    for step in range(60):
        frame = ground.copy()
        left = 20 + 4 * step
        frame[90:150, left : left + 60] = thing
        writer.write(frame)
    writer.release()
