"""One JSON line on standard error for each request, without anything of what was asked but its path."""

import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson


def write_line(**fields: Any) -> None:
    """Write one line; `time` (UTC) is added. Where nobody reads any more it is lost: the request was answered."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
    # BrokenPipeError and a full disk; ValueError: the stream was closed; None: there never was one.
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            sys.stderr.write(orjson.dumps(line).decode() + "\n")
            sys.stderr.flush()
