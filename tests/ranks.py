"""Real gloo processes for tests that look across ranks."""

import io
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT = timedelta(seconds=300)
"""How long a rank waits for the others before it fails: one that died does not hang the suite."""


def run_ranks(fn: Callable[..., Any], *args: Any, world_size: int = 2) -> list[Any]:
    """`fn(*args)` on `world_size` joined processes; what each rank returned, in rank order.

    `fn` is a function of a module, its arguments and results can be pickled. An error in a rank is raised here.
    """
    # A fork server imports once; its children start in tens of milliseconds and inherit no threads of this process.
    context = get_context("forkserver")
    context.set_forkserver_preload(["viewfold.ssl.methods"])
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(world_size, mp_context=context) as pool:
        meeting = f"file://{Path(folder, 'ranks')}"
        call = _packed((fn, args))
        # A worker cannot take a second rank: it waits in the first one until all have joined.
        futures = [pool.submit(_on_rank, rank, world_size, meeting, call) for rank in range(world_size)]
        return [_unpacked(future.result()) for future in futures]


def _on_rank(rank: int, world_size: int, meeting: str, call: bytes) -> bytes:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=TIMEOUT)
    try:
        fn, args = _unpacked(call)
        return _packed(fn(*args))
    finally:
        dist.destroy_process_group()


def _packed(value: Any) -> bytes:
    """Bytes rather than tensors: a tensor handed over by a process that has ended can no longer be read."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=False)  # made by ourselves a moment ago
