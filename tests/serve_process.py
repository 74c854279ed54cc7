"""What tests serve: run folders of an encoder with random weights and an index, and the service in its own process."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pools import pool

from viewfold.retrieval import IndexBundle, build_bundle
from viewfold.ssl.encoder import Encoder, EncoderConfig, Preprocessing, save_encoder

IMAGE_PX = 16
LABELS = ("round", "square", "star")


def write_pair(run: Path, *, seed: int, rows: int, domains: Sequence[str] = ("here",)) -> IndexBundle:
    """A run folder with an encoder and an index of `rows` vectors that nobody embedded; keys begin with `s<seed>-`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = Encoder(EncoderConfig(backbone="resnet-small", preprocessing=Preprocessing(image_size=IMAGE_PX)))
    identity = save_encoder(drawn.eval(), run / "pretrain" / "encoder", lineage={})
    vectors = np.random.default_rng(seed).normal(size=(rows, drawn.dim)).astype(np.float32)
    features = pool(
        vectors,
        encoder_id=identity,
        key=[f"s{seed}-{row:06d}" for row in range(rows)],
        label=[LABELS[row % len(LABELS)] for row in range(rows)],
        domain=[domains[row % len(domains)] for row in range(rows)],
    )
    return build_bundle(features, run / "index" / "bundle", factory="Flat")


def question(seed: int, dim: int) -> NDArray[np.float32]:
    """A vector to ask with."""
    return np.random.default_rng(10_000 + seed).normal(size=dim).astype(np.float32)


@dataclass(frozen=True)
class Service:
    """A running `viewfold serve`."""

    process: subprocess.Popen[str]
    url: str
    line: str
    """What it printed when it was ready."""

    def resident_bytes(self) -> int:
        """What the process holds in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def end(self, *, within_s: float = 60) -> int:
        """Ask it to end, and wait; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)


@contextmanager
def service(source: str | Path, words: Sequence[str] = (), *, log: Path) -> Iterator[Service]:
    """`viewfold serve SOURCE` on a free port of this machine, ready; what it writes to stderr goes to `log`."""
    command = [sys.executable, "-m", "viewfold.cli", "serve", str(source), "--port", "0", *words]
    environment = {name: value for name, value in os.environ.items() if name != "VIEWFOLD_SERVICE_KEYS"}
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            address = re.search(r"http://\S+", line)
            assert address is not None, log.read_text(encoding="utf-8")
            yield Service(process, address[0], line.strip())
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
