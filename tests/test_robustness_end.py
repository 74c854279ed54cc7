"""How a command ends that is told to: by Ctrl-C or SIGTERM, at any time, in an import or a fork too."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMAND = """
import os, signal, subprocess, sys
from viewfold import cli

@cli.app.command("endless")
def endless(where: str) -> None:
    if where == "import":
        sys.path.insert(0, sys.argv[1])
        import cut_here
        print("imported whole", cut_here.done, flush=True)
    elif where == "fork":  # an error is dropped there
        os.register_at_fork(after_in_parent=told)
        subprocess.run(["true"], preexec_fn=lambda: None)
    else:
        signal.raise_signal(int(sys.argv[2]))
    signal.pause()

def told():
    told.once and signal.raise_signal(told.once.pop())

told.once = [int(sys.argv[2])]

cli.main(["endless", sys.argv[3]])
"""


@pytest.mark.parametrize("where", ["import", "fork", "work"])
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_command_with_one_line_wherever_it_comes_but_no_import_in_its_middle(
    where: str, number: signal.Signals, code: int, word: str, tmp_path: Path
) -> None:
    (tmp_path / "cut_here.py").write_text(f"import signal\nsignal.raise_signal({int(number)})\ndone = True\n")
    command = [sys.executable, "-c", COMMAND, str(tmp_path), str(int(number)), where]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode == code
    assert ended.stdout == ("imported whole True\n" if where == "import" else "")
    assert ended.stderr == f"{word}; the same command goes on from the last finished stage or checkpoint\n"
