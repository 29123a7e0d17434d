"""What the sections of the GPU benchmark share: lines of results, and times of enqueued work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hpckit.comm.device import Device

_SAMPLE = 2e-3  # seconds: shorter samples are made of several calls
_LEAST = 5  # samples
_BUDGET = 0.3  # seconds


def emit(section: str, case: str, **found: Any) -> str:
    """Print one result as a JSON line, at once."""
    numbers = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in found.items()}
    line = json.dumps({"section": section, "case": case, **numbers})
    print(line, flush=True)
    return line


class Time(NamedTuple):
    """Seconds of one call: the best sample, and the middle one."""

    best: float
    median: float

    def bandwidth(self, nbytes: float) -> float:
        """GB/s of bytes that are read and written."""
        return nbytes / self.best / 1e9


def timed(
    work: Callable[[], object],
    finish: Callable[[], object],
    comm: Any = None,
    quick: bool = False,
) -> Time:
    """Time `work` for 0.3 s, `finish` after each sample included; collective over `comm`.

    A sample is as many calls as take 2 ms, so that what `finish` costs does not count for much. A
    `quick` one is five single calls.
    """

    def sample(calls: int) -> float:
        if comm is not None:
            comm.Barrier()
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        finish()
        return _slowest(comm, (time.perf_counter() - begin) / calls)

    sample(2)  # plans, modules, caches
    once = sample(1)
    calls = 1 if quick else int(np.clip(_SAMPLE / once, 1, 500))
    samples = _LEAST if quick else int(np.clip(_BUDGET / (once * calls), _LEAST, 100))
    times = [sample(calls) for _ in range(samples)]
    return Time(min(times), float(np.median(times)))


def host_time(work: Callable[[], object], finish: Callable[[], object], calls: int = 50) -> float:
    """Seconds of the host for one call that only enqueues, best of five."""
    times = []
    for _ in range(_LEAST):
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        times.append((time.perf_counter() - begin) / calls)
        finish()
    return min(times)


def finisher(device: Device, stream: int | None = None) -> Callable[[], object]:
    """What waits for a stream, the default one where none is given."""
    queue = device.default_stream if stream is None else stream
    return lambda: device.synchronize(queue)


def _slowest(comm: Any, seconds: float) -> float:
    if comm is None:
        return seconds
    from mpi4py import MPI

    return comm.allreduce(seconds, MPI.MAX)
