"""What a policy does, as a picture: contact sheets of stored images and views of them."""

import io
import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from viewfold.augment.policies import POLICIES, PolicyConfig, policy_warnings
from viewfold.augment.sheet import policy_sheet
from viewfold.config import choose, is_setting, override
from viewfold.errors import InvalidInput, ShardError
from viewfold.jobs.data import locate
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.locations import shard_name
from viewfold.pipeline.manifest import MANIFEST_NAME, ShardManifest
from viewfold.pipeline.progress import progress
from viewfold.pipeline.reader import ShardReader, open_shard
from viewfold.pipeline.shards import Member, ShardSample, scan_shard
from viewfold.pipeline.stage import write_whole

SHOWN = ("demo:emoji", "demo:objects-train")
"""Shipped images on which `policy_sheets` shows every policy."""
_LIMITS = {"images": (1, 64), "views": (1, 16), "size": (16, 512)}


class Samples(NamedTuple):
    """Some images of a data set, with the names by which their views are drawn."""

    images: Tensor
    """float32 `[image, 3, size, size]` in 0..1."""
    keys: list[str]
    """Shard, a slash, the key within the shard: as in training."""


def preview(words: Sequence[str], *, policy: str, out: Path, images: int, views: int, size: int, seed: int) -> str:
    """Draw the sheet of one policy to `out`; returns what is said about it.

    `words` are shards or folders with a manifest, and `key=value` settings of the policy.

    Raises:
        InvalidInput: an unknown policy or setting, no such shards, a number out of range, no place to write to.
        ShardError: a shard or an image that cannot be read.
    """
    for name, value in {"images": images, "views": views, "size": size}.items():
        low, high = _LIMITS[name]
        if not low <= value <= high:
            raise InvalidInput(f"--{name} must lie in {low}..{high}, got {value}")
    settings = [word for word in words if is_setting(word)]
    chosen = override(choose("policy", POLICIES, {"name": policy}), settings)
    require_picture_path(out)
    paths = _shards([word for word in words if word not in settings])
    for warning in policy_warnings(chosen):
        print(f"warning: {warning}", file=sys.stderr)
    samples = some_images(paths, num=images, size=size)
    _draw(chosen, samples, out, views=views, seed=seed)
    return f"{out}: {len(samples.keys)} images x {views} views by {policy}"


def policy_sheets(folder: Path, *, size: int = 128) -> list[Path]:
    """Draw every policy, on shipped images, to `folder/NAME.png`."""
    parts = [some_images(locate((name,)), num=3, size=size) for name in SHOWN]
    samples = Samples(torch.cat([part.images for part in parts]), [key for part in parts for key in part.keys])
    drawn = []
    with progress("policy sheets", total=len(POLICIES)) as bar:
        for name in sorted(POLICIES):
            policy = choose("policy", POLICIES, {"name": name})
            drawn.append(_draw(policy, samples, folder / f"{name}.png", views=5, seed=0))
            bar.advance()
    return drawn


def some_images(locations: Sequence[str], *, num: int, size: int) -> Samples:
    """The first stored image of at most `num` samples, evenly over the shards and in them, `size` pixels square.

    Only the headers of as many shards are read, whatever there are.

    Raises:
        ShardError: a shard or an image that cannot be read.
        InvalidInput: there is no sample.
    """
    first = _evenly(len(locations), num)
    order = [locations[i] for i in (*first, *(i for i in range(len(locations)) if i not in first))]
    filled = (shard for location in order if (shard := _opened(location))[2])  # one may be empty
    shards = list(islice(filled, len(first)))
    if not shards:
        raise InvalidInput(f"no sample in {', '.join(locations)}")
    named, sizes, found = zip(*shards, strict=True)
    with ShardReader(named, sizes) as reader:
        pixels, keys = [], []
        for place, (location, samples) in enumerate(zip(named, found, strict=True)):
            share, name = num // len(named) + (place < num % len(named)), shard_name(location)
            for sample in (samples[row] for row in _evenly(len(samples), share)):
                pixels.append(_decoded(reader, place, sample.images(name)[0], size, (name, sample.key)))
                keys.append(f"{name}/{sample.key}")
    return Samples(torch.stack(pixels), keys)


def _opened(location: str) -> tuple[str, int, list[ShardSample]]:
    """A shard with its size and samples."""
    with os.fdopen(open_shard(location, expected=None), "rb") as file:
        return location, os.fstat(file.fileno()).st_size, scan_shard(file, shard_name(location))


def require_picture_path(path: Path) -> None:
    """Whether a PNG can be written there, before the work that it is to show.

    Raises:
        InvalidInput: another suffix, a folder, or below a folder that does not exist.
    """
    if path.suffix.lower() != ".png":
        raise InvalidInput(f"{path}: the picture is a PNG; give a name that ends in .png")
    if path.is_dir():
        raise InvalidInput(f"{path}: a folder; name a file in it")
    if not path.parent.is_dir():
        raise InvalidInput(f"{path.parent}: no such folder; make it first, or name another --out")


def _shards(words: Sequence[str]) -> list[str]:
    if not words:
        raise InvalidInput("no shards named; give tar files, folders of them, globs, or demo:emoji")
    found: list[str] = []
    for word in words:
        if (Path(word) / MANIFEST_NAME).is_file():
            found += [shard.location for shard in ShardManifest.load(Path(word)).shards]
        else:
            found += locate((word,))
    return list(dict.fromkeys(found))


def _evenly(count: int, num: int) -> list[int]:
    """At most `num` of `count` places, each in the middle of its part."""
    num = min(count, num)
    return [(2 * place + 1) * count // (2 * num) for place in range(num)]


def _decoded(reader: ShardReader, shard: int, member: Member, size: int, where: tuple[str, str]) -> Tensor:
    try:
        pixels = decode_image(reader.read(shard, member), size)
    except ShardError:
        raise
    except InvalidInput as error:
        raise ShardError(where[0], str(error), where[1]) from None
    return torch.from_numpy(pixels).float() / 255


def _draw(policy: PolicyConfig, samples: Samples, out: Path, *, views: int, seed: int) -> Path:
    sheet = policy_sheet(policy, samples.images, samples.keys, num_views=views, seed=seed)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return write_whole(out, lambda file: file.write(buffer.getvalue()))
