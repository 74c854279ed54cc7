"""How a night ended, for programs: a JSON file beside it, another where the configuration says, and a POST."""

import json
import sys
import traceback
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from viewfold.jobs.nightly_config import NightlyConfig
from viewfold.jobs.nightly_night import Night, now
from viewfold.pipeline.stage import write_whole

RESULT, TRACEBACK = "result.json", "failed.txt"
_TIMEOUT_S = 10


def tell_result(config: NightlyConfig, night: Night, outcome: str, reason: str) -> dict[str, Any]:
    """Write and post it. A file that cannot be written, or a webhook that does not take it, costs a warning.

    `outcome` is one of a night's, or `failed` for one that the next start goes on with.
    """
    gates, check = night.phase("gates") or {}, night.phase("check") or {}
    result = {
        "name": config.name,
        "date": night.facts["date"],
        "hash": night.facts["hash"],
        "outcome": outcome,
        "reason": reason,
        "version": night.version,
        "champion_before": gates.get("champion", night.facts["champion"]),
        "forced_by": night.facts["forced"],
        "gates": gates.get("verdict"),
        "canary_precision": check.get("precision"),
        "began": night.facts["began"],
        "ended": now(),
        "folder": str(night.folder.resolve()),
    }
    text = (json.dumps(result, indent=2) + "\n").encode()
    for file in [night.folder / RESULT, *([Path(config.result)] if config.result else [])]:
        try:
            write_whole(file, lambda out: out.write(text))
        except OSError as error:
            _warn(f"the result cannot be written to {file} ({error.strerror or error}): {outcome}: {reason}")
    refusal = _post(config.webhook, text) if config.webhook else ""
    if refusal:
        _warn(f"the webhook did not take the result ({refusal}); it is in {night.folder / RESULT}")
    return {"webhook": refusal or ("sent" if config.webhook else "")}


def keep_traceback(night: Night, error: Exception) -> Path:
    """Where an error that nobody foresaw came from, beside the result; the file."""
    text = "".join(traceback.format_exception(error))
    try:
        return write_whole(night.folder / TRACEBACK, lambda out: out.write(text.encode(errors="backslashreplace")))
    except OSError:
        print(text, file=sys.stderr)
        return Path("what was printed above")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _post(url: str, body: bytes) -> str:
    """The empty text, or why it was not taken."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):
            return ""
    except (OSError, HTTPException, ValueError) as error:  # no answer, no HTTP, no such URL; refusals are OSErrors too
        return " ".join(str(error).split()) or type(error).__name__
