"""The servers that are measured: `viewfold serve` as users start it, and the real backend of clip-retrieval."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

CLIP_BACK = """
import sys
import all_clip
all_clip.load_clip = lambda *model, **options: (None, None, None)
from clip_retrieval.clip_back import clip_back
clip_back(indices_paths=sys.argv[1], port=int(sys.argv[2]), enable_mclip_option=False, use_jit=False,
          provide_aesthetic_embeddings=False)
"""


@contextmanager
def served(run: Path, *settings: str) -> Iterator[int]:
    """`viewfold serve` on one thread for each pool, as a process; the port that it answers on."""
    command = [sys.executable, "-c", "from viewfold.cli import main; main()", "serve", str(run), "--port", "0"]
    with (run / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, *settings], stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **ONE_THREAD}
        )
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:(\d+)", ready)
            assert address, f"{ready}{(run / 'serve.log').read_text()[-2000:]}"
            yield int(address[1])
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@contextmanager
def clip_backend(python: str, bundle: Path, scratch: Path, rows: int) -> Iterator[int]:
    """clip-retrieval's backend over the FAISS file of a bundle of so many `rows`; the port that it answers on."""
    folder = scratch / "clip"
    (folder / "metadata").mkdir(parents=True)
    (folder / "image.index").symlink_to(bundle / "index.faiss")
    captions = [f"class-{row}" for row in range(rows)]
    pq.write_table(pa.table({"caption": captions}), folder / "metadata" / "metadata_0.parquet")
    (folder / "indices.json").write_text(json.dumps({"viewfold": str(folder)}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, "-c", CLIP_BACK, str(folder / "indices.json"), str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, **ONE_THREAD},
        )
        try:
            _wait_for(port, process, folder / "log")
            yield port
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until something answers on the port."""
    for _ in range(3000):
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing on port {port}: {log.read_text()[-2000:]}")
