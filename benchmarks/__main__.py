"""`make bench`: every suite one after another, then docs/benchmarks.md from the records of all of them.

python -m benchmarks [SUITE ...]    without names all but those that train for hours (`benchmarks.LONG`)
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import LONG, SUITES, render
from benchmarks.measure import RESULTS


def main(names: Sequence[str]) -> int:
    """Measure, render, and say which suites failed; the exit status."""
    unknown = [name for name in names if name not in (*SUITES, *LONG)]
    if unknown:
        print(f"no suite {', '.join(unknown)}: there are {', '.join((*SUITES, *LONG))}", file=sys.stderr)
        return 2
    failed = run_all(names or SUITES, measured)
    print(f"{render.write()} is rendered")
    if failed:
        print(f"failed, their records are the old ones: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_all(names: Sequence[str], run: Callable[[str], bool], results: Path = RESULTS) -> list[str]:
    """Run one after another, whatever becomes of them, saying how far it is; the names of those that failed."""
    failed = []
    for number, name in enumerate(names, start=1):
        print(f"== {number} of {len(names)}: {name}{_last_time(results / f'{name}.json')}", flush=True)
        start = time.monotonic()
        done = run(name)
        failed += [] if done else [name]
        print(f"== {name}: {'done' if done else 'FAILED'} after {(time.monotonic() - start) / 60:.1f} min", flush=True)
    return failed


def measured(name: str) -> bool:
    """Whether the suite came to its end; its rows are shown as they are made, its record goes to `results/`."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):  # the record, which the file holds
                print(line, end="", flush=True)
    return process.returncode == 0


def _last_time(record: Path) -> str:
    minutes = json.loads(record.read_text(encoding="utf-8")).get("minutes") if record.exists() else None
    return f", {minutes:.1f} min the last time" if minutes else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
