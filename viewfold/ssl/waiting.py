"""How long a device stood idle because the next batch was not there."""

import time
from types import TracebackType

import torch


class Waiting:
    """One wait for a batch: `with Waiting(device) as wait: batch = next(batches)`.

    On a CPU it is the time that the block took. A GPU may still be busy with the step before, so there two events stand
    in its queue, around the block: between them it had run out of work and the batch was not there. Recording them
    costs microseconds and stops nobody. (The GPU's part has not been run yet: no GPU was at hand.)
    """

    def __init__(self, device: torch.device) -> None:
        self._began_s = self._took_s = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.current_stream(device)
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._events = began, ended

    def __enter__(self) -> "Waiting":
        self._began_s = time.perf_counter()
        if self._events:
            self._events[0].record(self._stream)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events:
            self._events[1].record(self._stream)
        self._took_s = time.perf_counter() - self._began_s

    def idle_s(self) -> float:
        """Seconds without work for want of data. Ask late: the device must have come past the block, or it is waited
        for."""
        if not self._events:
            return self._took_s
        began, ended = self._events
        ended.synchronize()
        return float(began.elapsed_time(ended)) / 1000
