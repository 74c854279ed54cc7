"""What the drift figures say of queries that have not drifted, and of some that have, for the demo's index.

python -m benchmarks.drift [RUN]    RUN: the emoji run of `viewfold demo`, by default runs/demo/emoji
"""

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from viewfold.errors import InvalidInput
from viewfold.jobs.data import locate
from viewfold.jobs.drift import DriftConfig, judged
from viewfold.jobs.serve_open import open_source
from viewfold.keyed import generator
from viewfold.retrieval import Drift, Query, SelectConfig
from viewfold.retrieval.service.config import BatchingConfig
from viewfold.retrieval.service.local import LocalPair, Opened
from viewfold.retrieval.service.local_work import chosen, embed
from viewfold.retrieval.service.recent import RecentQueries

QUERIES = 600
CHUNK = 100


@dataclass(frozen=True)
class Sample:
    """One image of a shard."""

    key: str
    file: bytes
    group: str | None
    domain: str | None


def main(run: Path) -> None:
    """Print one line of Markdown for each kind of query."""
    opened = open_source(str(run), run.parent)
    info = LocalPair(opened, BatchingConfig()).info
    emoji, objects = list(samples("demo:emoji")), list(samples("demo:objects-val"))
    known = [sample for sample in emoji if sample.domain in info.domains]
    kinds = {
        "the index's own images": (known, same),
        "saved as JPEG of quality 60": (known, saved),
        "half as large, with noise": (known, worn),
        "one domain of the index alone": ([one for one in known if one.domain == info.domains[0]], same),
        "a style that the index has not": ([one for one in emoji if one.domain not in info.domains], same),
        "other things (`demo:objects-val`)": (objects, same),
        "colours inverted": (known, inverted),
    }
    print("| queries | cosine PSI | cosine KS | domain PSI | median cosine | |\n|---|---|---|---|---|---|")
    for name, (given, change) in kinds.items():
        drift = asked(opened, given, change)
        verdict = "drift" if judged(drift, DriftConfig()).drifted else "no drift"
        print(
            f"| {name} | {drift.psi:.2f} | {drift.ks:.2f} | {drift.domain_psi:.2f} | {drift.median:.3f} | {verdict} |"
        )
    print(f"\nchance: {drift.psi_chance:.2f}, {drift.ks_chance:.2f}, {drift.domain_psi_chance:.2f}")


def samples(shards: str) -> Iterator[Sample]:
    """The images of shards with their group and domain."""
    for path in locate((shards,)):
        with tarfile.open(path) as tar:
            found = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            data = {name: file.read() for name, file in found.items() if file is not None}
        for name, file in data.items():
            key = name.partition(".")[0]
            if not name.endswith(".json"):
                facts = json.loads(data[f"{key}.json"])
                yield Sample(key, file, facts.get("group"), facts.get("domain"))


def asked(opened: Opened, given: Sequence[Sample], change: Callable[[Image.Image], bytes]) -> Drift:
    """What the service would tell after `QUERIES` of these, drawn with replacement; a group never sees its own."""
    info, recent, config = LocalPair(opened, BatchingConfig()).info, RecentQueries(), SelectConfig()
    drawn = generator("drift benchmark").integers(0, len(given), QUERIES)
    embedded = embed(opened, [change(Image.open(io.BytesIO(sample.file)).convert("RGB")) for sample in given])
    queries = []
    for sample, found in zip(given, embedded, strict=True):
        assert not isinstance(found, InvalidInput)
        queries.append(Query(sample.key, found.vector, sample.group, found.sha256, found.phash, found.base_vector))
    for start in range(0, QUERIES, CHUNK):
        for demos in chosen(opened, config, [queries[place] for place in drawn[start : start + CHUNK]]):
            recent.add(info, demos, config)
    return recent.drift(info)


def same(image: Image.Image) -> bytes:
    """As it is."""
    return _file(image, "PNG")


def saved(image: Image.Image) -> bytes:
    """With the traces of compression."""
    return _file(image, "JPEG")


def worn(image: Image.Image) -> bytes:
    """Half its side, each channel with noise of 40 of 255."""
    pixels = np.asarray(image.resize((image.width // 2, image.height // 2)), dtype=np.float64)
    noisy = pixels + generator("drift benchmark", "noise").normal(0, 40, pixels.shape)
    return _file(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG")


def inverted(image: Image.Image) -> bytes:
    """Each channel from the other end."""
    return _file(Image.fromarray(255 - np.asarray(image)), "PNG")


def _file(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=60)
    return buffer.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo/emoji"))
