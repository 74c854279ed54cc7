"""Bytes on disk or in a store to batches, work items to files: shards, manifest, stream, stages, the Ray executor.

`order/` says which sample comes when, `remote/` fetches what is not on this disk, `video/` finds tracks in videos.

Imported by their own names: `executor` (needs Ray), `import_3diebench`, `progress` and `verify` (each named like its
function).
"""

from viewfold.pipeline.decode import decode_image
from viewfold.pipeline.images import read_images
from viewfold.pipeline.importer import import_folder
from viewfold.pipeline.indexer import index_shards
from viewfold.pipeline.ledger import audit, read_ledger
from viewfold.pipeline.locations import expand_shards
from viewfold.pipeline.manifest import ShardManifest
from viewfold.pipeline.order import Plan, split_groups
from viewfold.pipeline.partners import Partners
from viewfold.pipeline.plain import plain_stream
from viewfold.pipeline.quarantine import read_quarantine
from viewfold.pipeline.repair import repair_shards
from viewfold.pipeline.shards import scan_shard
from viewfold.pipeline.stage import StageRecord, code_version, run_stage, write_whole
from viewfold.pipeline.state import StreamState, step_of
from viewfold.pipeline.stats import contact_sheet, count
from viewfold.pipeline.stream import stream_batches
from viewfold.pipeline.stream_config import StreamConfig

__all__ = [
    "Partners",
    "Plan",
    "ShardManifest",
    "StageRecord",
    "StreamConfig",
    "StreamState",
    "audit",
    "code_version",
    "contact_sheet",
    "count",
    "decode_image",
    "expand_shards",
    "import_folder",
    "index_shards",
    "plain_stream",
    "read_images",
    "read_ledger",
    "read_quarantine",
    "repair_shards",
    "run_stage",
    "scan_shard",
    "split_groups",
    "step_of",
    "stream_batches",
    "write_whole",
]
