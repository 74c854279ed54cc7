"""The images of an index as they are stored in its shards; where those are gone, the bundle's thumbnails."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from viewfold.errors import InvalidInput, ShardError
from viewfold.jobs.data import locate
from viewfold.pipeline.locations import shard_name
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.reader import open_shard
from viewfold.pipeline.remote.urls import file_name
from viewfold.retrieval import IndexBundle


class PoolImages:
    """Image files of a bundle by their keys, read at the place that was recorded when they were embedded."""

    def __init__(self, bundle: IndexBundle, shards: Sequence[str] | None = None) -> None:
        """The shards of the run that the bundle lies in, and `shards`, named as for `viewfold data index`, before them.

        Raises:
            InvalidInput: `shards` names something that is not there.
        """
        self._bundle = bundle
        locations = [*_of_run(bundle), *(locate(tuple(shards)) if shards else [])]
        self._locations = {shard_name(location): location for location in locations}
        self.warnings: list[str] = []
        """One sentence for each shard whose images could not be read so far."""
        self._gone: set[str] = set()

    def image_of(self, key: str) -> bytes:
        """The file of the image `key`; its thumbnail, and a warning, if its shard is gone or holds something else.

        Raises:
            InvalidInput: the bundle has no such image, or neither the shard nor a thumbnail.
        """
        (rows,) = self._bundle.by_key.rows([key])
        if not rows.size:
            raise InvalidInput(f"{self._bundle.folder}: holds no image {key!r}; take a key that a selection named")
        names = ["shard", "offset", "size", "sha256"]
        row = int(rows[-1])  # an image that was removed and came back stands twice
        record = self._bundle.records.slice(row, 1).select(names).to_pylist()[0]
        shard = record["shard"]
        try:
            data = self._read(shard, record["offset"], record["size"])
            if hashlib.sha256(data).hexdigest() == record["sha256"]:
                return data
            reason = "holds other images than those that were indexed"
        except ShardError as error:
            reason = error.reason
        thumbnail = self._bundle.thumbnail(key)
        if thumbnail is None:
            raise InvalidInput(f"{key}: its shard {shard} {reason}, and the index has no thumbnail of it")
        if shard not in self._gone:
            self._gone.add(shard)
            self.warnings.append(f"shard {shard} {reason}: its images are shown as thumbnails")
        return thumbnail

    def _read(self, shard: str, offset: int, size: int) -> bytes:
        if shard not in self._locations:
            raise ShardError(shard, "is not where it was indexed; name its place with --shards")
        location = self._locations[shard]
        handle = open_shard(location, expected=None)
        try:
            data = os.pread(handle, size, offset)
        finally:
            os.close(handle)
        if len(data) != size:
            raise ShardError(file_name(location), f"is cut short: {len(data)} of {size} bytes at byte {offset}")
        return data


def _of_run(bundle: IndexBundle) -> list[str]:
    """The shards of the manifest in the run folder that the bundle was built in; none if there is none."""
    folder: Path = bundle.folder.absolute().parent.parent / "data"
    if not (folder / "manifest.json").is_file():
        return []
    manifest = ShardManifest.load(folder)
    return [shard.location for shard in manifest.shards] if manifest.hash == bundle.info.manifest_hash else []
