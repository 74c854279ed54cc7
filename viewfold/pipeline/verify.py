"""Read everything that a manifest names, once: what a training would otherwise find out in the middle of the night."""

from collections.abc import Callable
from dataclasses import dataclass

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.about import parse_about
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.manifest import Shard, ShardManifest, file_sha256
from viewfold.pipeline.shards import Member, ShardReader

_DECODE_SIZE = 64  # every file is decoded to its end; only the pixels that are kept are few


@dataclass(frozen=True)
class Problem:
    """Something that cannot be read as the manifest says."""

    shard: str
    key: str
    """Key within the shard; empty where the shard itself is the problem."""
    reason: str


def verify(manifest: ShardManifest, *, progress: Callable[[int], object] = lambda num_samples: None) -> list[Problem]:
    """Check the sha256 of every shard, and decode every image and JSON; `progress` is called with 1 after each sample.

    Finds all problems and raises none of them: first those of shards, then those of samples in the manifest's
    order. The samples of a shard that is gone or has another size are not looked at one by one.
    """
    problems, readable = [], []
    for shard in manifest.shards:
        reason = _shard_reason(shard)
        if reason is not None:
            problems.append(Problem(shard.name, "", reason))
        readable.append(shard.path.is_file() and shard.path.stat().st_size == shard.bytes)
    with manifest.reader() as reader:
        for row in range(len(manifest)):
            index = int(manifest.samples.shard[row])
            if readable[index]:
                reasons = _sample_reasons(manifest, reader, row)
                problems += [Problem(manifest.shards[index].name, manifest.samples.key(row), r) for r in reasons]
            progress(1)
    return problems


def _shard_reason(shard: Shard) -> str | None:
    try:
        with ShardReader([shard.path], [shard.bytes]) as reader:
            reader.read(0, Member(0, 0))  # opening compares the size
    except ShardError as error:
        return error.reason
    found = file_sha256(shard.path)
    if found != shard.sha256:
        return (
            f"its sha256 is {found[:16]}..., the manifest says {shard.sha256[:16]}...; copy it again or index it again"
        )
    return None


def _sample_reasons(manifest: ShardManifest, reader: ShardReader, row: int) -> list[str]:
    shard, images = int(manifest.samples.shard[row]), manifest.samples.images(row)
    reasons = []
    about = manifest.samples.about(row)
    if about is not None:
        try:
            parse_about(reader.read(shard, about), num_images=len(images))
        except InvalidInput as error:
            reasons.append(str(error))
    for number, image in enumerate(images):
        try:
            decode_image(reader.read(shard, image), _DECODE_SIZE)
        except InvalidInput as error:
            reasons.append(f"image {number:02d}: {error}" if len(images) > 1 else str(error))
    return reasons
