"""The full data packs, read once from end to end."""

from pathlib import Path

import pytest

from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.locations import expand_shards
from viewfold.pipeline.stats import count
from viewfold.pipeline.verify import verify


@pytest.mark.parametrize(
    ("shards", "samples", "images", "labelled", "latents"),
    [
        ("emoji/emoji-{000000..000005}.tar", 5395, 5395, 5395, 0),
        ("objects3d/objects3d-yaw-train-*.tar", 611, 12220, 334, 7),
        ("objects3d/objects3d-val-*.tar", 105, 2100, 105, 7),
    ],
)
def test_a_pack_holds_what_its_description_says(
    data_packs: Path, tmp_path: Path, shards: str, samples: int, images: int, labelled: int, latents: int
) -> None:
    manifest = index_shards(expand_shards(str(data_packs / shards)), tmp_path)
    counts = count(manifest)
    expected = {"samples": samples, "images": images, "labelled": labelled, "latents": latents}
    assert {name: counts[name] for name in expected} == expected
    assert verify(manifest) == []
