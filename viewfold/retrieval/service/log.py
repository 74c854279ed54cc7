"""One JSON line on standard error for each request, without anything of what was asked but its path."""

import sys
from datetime import UTC, datetime
from typing import Any

import orjson


def write_line(**fields: Any) -> None:
    """Write one line; `time` (UTC) is added."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
    sys.stderr.write(orjson.dumps(line).decode() + "\n")
    sys.stderr.flush()
