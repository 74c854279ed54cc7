"""Tiny shard sets made in a temporary folder: drawn pictures whose class, style and pose a small network can learn.

A picture is a coloured disc with the marks of its class: as many dots as its class number plus two, on a ring, the
first one bigger than the others, so that the pose can be read from where the big dot is.
"""

import io
import json
import math
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

LATENT_NAMES = (
    "angle_x_rad", "angle_y_rad", "angle_z_rad", "floor_hue", "spot_polar_rad", "spot_azimuth_rad", "spot_hue",
)  # fmt: skip
"""Columns of an object's latents: 3DIEBench's law."""


def write_images(
    folder: Path,
    *,
    samples: int = 24,
    labels: int = 3,
    domains: int = 2,
    per_shard: int = 10,
    size: int = 32,
    seed: int = 0,
) -> list[Path]:
    """Shards `images-000000.tar ...` of single PNG images with label, domain and group.

    Label and domain cycle so that every combination occurs; a group is one drawing made once in every domain.
    """
    rng = np.random.default_rng(seed)
    members = []
    for index in range(samples):
        thing, domain = divmod(index, domains)
        label = thing % labels
        angles = rng.uniform(-0.4, 0.4, size=3)
        ground = colour((domain + 0.5) / domains, 0.35)
        picture = draw(label, angles, ground=ground, ink=colour(label / labels, 0.9), size=size)
        about = {"label": f"class-{label}", "domain": f"style-{domain}", "group": f"thing-{thing}"}
        key = f"img-{index:04d}"
        members.append({f"{key}.png": encode(picture, "PNG"), f"{key}.json": json.dumps(about).encode()})
    return write_shards(folder, "images", members, per_shard=per_shard)


def write_objects(
    folder: Path,
    *,
    objects: int = 12,
    views: int = 4,
    yaw_only: bool = False,
    unlabelled: int = 0,
    per_shard: int = 5,
    seed: int = 0,
) -> list[Path]:
    """Shards `objects-000000.tar ...` of objects of three classes: 32 px JPEG views and a row of latents for each view.

    Latents follow 3DIEBench's law; `yaw_only` keeps the angles about X and Y at 0. The last `unlabelled` objects have
    no label.
    """
    rng = np.random.default_rng(seed)
    members = []
    for index in range(objects):
        latents = draw_latents(rng, views, yaw_only=yaw_only)
        label, key = index % 3, f"obj-{index:04d}"
        ink = colour(index / objects, 0.9)
        sample = {}
        for view, (*angles, floor_hue, _, _, spot_hue) in enumerate(latents.tolist()):
            ground = tuple((a + b) // 2 for a, b in zip(colour(floor_hue, 0.5), colour(spot_hue, 0.3), strict=True))
            picture = draw(label, np.asarray(angles), ground=ground, ink=ink, size=32)
            sample[f"{key}.{view:02d}.jpg"] = encode(picture, "JPEG", quality=90)
        about: dict[str, Any] = {"group": key, "latents": np.round(latents, 5).tolist()}
        if index < objects - unlabelled:
            about["label"] = f"class-{label}"
        members.append({**sample, f"{key}.json": json.dumps(about).encode()})
    return write_shards(folder, "objects", members, per_shard=per_shard)


def write_shards(folder: Path, name: str, samples: Iterable[Mapping[str, bytes]], *, per_shard: int = 10) -> list[Path]:
    """Tar files `<name>-000000.tar ...` holding the given members in the given order."""
    samples = list(samples)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for start in range(0, len(samples), per_shard):
        path = folder / f"{name}-{start // per_shard:06d}.tar"
        write_tar(path, [item for sample in samples[start : start + per_shard] for item in sample.items()])
        paths.append(path)
    return paths


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """One tar with these members in this order, repeated names included: what a broken tool might have written."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def break_image(shard: Path, member: str, *, keep: float = 0.5) -> Path:
    """Overwrite the end of one member with zeros in place: the shard keeps its size, the image is cut."""
    with tarfile.open(shard) as tar:
        info = tar.getmember(member)
    kept = int(info.size * keep)
    with shard.open("r+b") as file:
        file.seek(info.offset_data + kept)
        file.write(bytes(info.size - kept))
    return shard


def truncate(shard: Path, *, keep: float = 0.5) -> Path:
    """Cut a shard off, as a download that stopped would leave it."""
    data = shard.read_bytes()
    shard.write_bytes(data[: int(len(data) * keep)])
    return shard


def draw_latents(rng: np.random.Generator, views: int, *, yaw_only: bool) -> NDArray[np.float64]:
    """`[views, 7]` in the order of `LATENT_NAMES`."""
    low = np.array([-math.pi / 2] * 3 + [0.0] * 4)
    high = np.array([math.pi / 2] * 3 + [1.0, math.pi / 4, 2 * math.pi, 1.0])
    latents = rng.uniform(low, high, size=(views, 7))
    if yaw_only:
        latents[:, :2] = 0.0
    return latents


def draw(
    label: int, angles: NDArray[np.float64], *, ground: tuple[int, ...], ink: tuple[int, ...], size: int
) -> Image.Image:
    """A ring of `label + 2` dots in space, turned by R = Rz Ry Rx, seen from above; the first dot is the bigger one."""
    picture = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(picture)
    pen.ellipse(_circle(size / 2, size / 2, 0.42 * size), fill=ink)
    turns = 2 * math.pi * np.arange(label + 2) / (label + 2)
    ring = np.stack([np.cos(turns), np.sin(turns), np.zeros_like(turns)])
    x, y, _ = _rotation(angles) @ ring
    for dot in reversed(range(label + 2)):
        radius = size * (0.11 if dot == 0 else 0.06)
        pen.ellipse(_circle(size * (0.5 + 0.28 * x[dot]), size * (0.5 - 0.28 * y[dot]), radius), fill=(255, 255, 255))
    return picture


def colour(hue: float, value: float) -> tuple[int, int, int]:
    """A saturated colour; `hue` in turns, `value` in 0..1."""
    thirds = np.array([0.0, 1 / 3, 2 / 3])
    red, green, blue = (255 * value * (0.5 + 0.5 * np.cos(2 * math.pi * (hue - thirds)))).astype(int).tolist()
    return red, green, blue


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """The picture's bytes in a PIL format such as PNG or JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _circle(x: float, y: float, radius: float) -> tuple[float, float, float, float]:
    return x - radius, y - radius, x + radius, y + radius


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turn: NDArray[np.float64] = about_z @ about_y @ about_x
    return turn
