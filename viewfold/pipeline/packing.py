"""What every importer does with its samples: put them into new shards in a folder that is not in use."""

from pathlib import Path
from typing import Any

from viewfold.errors import InvalidInput, MissingDependency


def refuse_used(out: Path) -> None:
    """Raise InvalidInput where `out` is anything but an empty folder or a place where nothing lies yet."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out}: exists and is not empty; remove it or give another folder")


def shard_writer(folder: Path, name: str, *, shard_bytes: int) -> Any:
    """A `webdataset.ShardWriter` of `folder/NAME-000000.tar ...`: the same samples give the same bytes.

    A shard ends with the sample whose members bring it to `shard_bytes`.
    """
    try:
        from webdataset import ShardWriter
    except ModuleNotFoundError:
        raise MissingDependency("importing images needs webdataset: pip install 'viewfold[train]'") from None
    pattern = str(folder / name).replace("%", "%%") + "-%06d.tar"
    return ShardWriter(pattern, maxsize=shard_bytes, mtime=0.0, verbose=0)
