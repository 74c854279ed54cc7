"""What may be wrong inside the members of a sample, found by reading them."""

from collections.abc import Callable, Iterator

from viewfold.errors import InvalidInput, ShardError
from viewfold.pipeline.about import About, parse_about
from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.shards import Fault, Member, ShardSample

_DECODE_SIZE = 64  # every file is decoded to its end; only the pixels that are kept are few


def sample_faults(
    shard: str, sample: ShardSample, read: Callable[[Member], bytes], *, decode: bool = True
) -> Iterator[Fault]:
    """No image, a JSON or a label that cannot be used and, with `decode`, images that cannot be decoded."""
    try:
        images = sample.images(shard)
    except ShardError as error:
        yield Fault(shard, sample.key, min(member.offset for member in sample.members.values()), error.reason)
        return
    about, facts = sample.members.get("json"), About()
    if about is not None:
        try:
            facts = parse_about(read(about), num_images=len(images))
        except InvalidInput as error:
            yield Fault(shard, sample.key, about.offset, str(error))
    label = sample.members.get("cls") or sample.members.get("txt")
    if label is not None and facts.label is None:
        try:
            read(label).decode("utf-8")
        except UnicodeDecodeError:
            yield Fault(shard, sample.key, label.offset, "its label is not UTF-8 text")
    for number, image in enumerate(images if decode else ()):
        try:
            decode_image(read(image), _DECODE_SIZE)
        except InvalidInput as error:
            which = f"image {number:02d}: " if len(images) > 1 else ""
            yield Fault(shard, sample.key, image.offset, f"{which}{error}")
