"""Batches out of a reservoir in memory against batches out of an HDF5 file, which is in the cache.

Fields of 64 x 64 float32, batches of 64 samples. The file has a chunk per simulation of 100 steps,
as simulations are written, or is contiguous; samples of it are read one by one in shuffled order
and stacked, by PyTorch's `DataLoader` where there is one. One rank works, the other sleeps.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks._harness import Report, interleaved, print_table
from hpckit.errors import meet
from hpckit.surrogate.buffers import Reservoir
from hpckit.surrogate.solver import Fields
from hpckit.surrogate.views import parse

_BATCH = 64
_SIMULATIONS = 30
_STEPS = 100
_FIELDS = Fields.of({"u": (64, 64)})
_PARAMETERS = 5
_CHUNKS = {
    "HDF5, a chunk per simulation": (1, _STEPS, _FIELDS.size),
    "HDF5, contiguous": None,
}
_TARGETS = {"HDF5, a chunk per simulation": 10.0}


def run(comm: Any, quick: bool, report: Report) -> None:
    """Add the section to the report (on rank 0)."""
    if comm.rank == 0:
        with tempfile.TemporaryDirectory() as folder:
            _measure(report, Path(folder), 1.0 if quick else 30.0)
    meet(comm)


def _measure(report: Report, folder: Path, seconds: float) -> None:
    ways: dict[str, Callable[[], object]] = {"reservoir": _reservoir()}
    for number, (name, chunks) in enumerate(_CHUNKS.items()):
        samples = _Samples(folder / f"{number}.h5", chunks)
        ways[name] = iter(_batches(samples)).__next__
    times = interleaved(ways, seconds=seconds)
    ours = times["reservoir"]
    rows = [(name, _BATCH / each.best, each.best / ours.best) for name, each in times.items()]
    print_table(("batches from", "samples/s", "time"), rows, "data path: 64 x 64, batches of 64")
    for name in _CHUNKS:
        report.add("a batch in memory", name, *ours.ratio(times[name]), _TARGETS.get(name))


def _reservoir() -> Callable[[], object]:
    """Draws a batch from a full reservoir, and gives it to the network as a view does."""
    view = parse("direct").bind(_PARAMETERS, _FIELDS)
    capacity = _SIMULATIONS * _STEPS
    random = np.random.default_rng(0)
    buffer = Reservoir(capacity, threshold=1000).bind(view.columns, random, view.leaves)
    drawn = {
        name: np.empty((_BATCH, *shape), dtype) for name, (shape, dtype) in view.columns.items()
    }
    x, y = np.ones(view.inputs, np.float32), np.ones(view.outputs, np.float32)
    for sample in range(capacity):
        buffer.put({"simulation": sample // _STEPS, "x": x, "y": y})

    def draw() -> object:
        buffer.draw(_BATCH, drawn)
        return view.gather(drawn)

    return draw


class _Samples:
    """What a `DataLoader` takes: samples by their number."""

    def __init__(self, path: Path, chunks: tuple[int, ...] | None) -> None:
        shape = (_SIMULATIONS, _STEPS, _FIELDS.size)
        with h5py.File(path, "w") as file:
            file.create_dataset("u", data=np.ones(shape, np.float32), chunks=chunks)
        file = h5py.File(path)
        self._parameters = np.ones((_SIMULATIONS, _PARAMETERS), np.float32)
        self._fields: Any = file["u"]

    def __len__(self) -> int:
        return _SIMULATIONS * _STEPS

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        simulation, step = divmod(int(number), _STEPS)
        x = np.append(self._parameters[simulation], np.float32(step))
        return x, self._fields[simulation, step]


def _batches(samples: _Samples) -> Iterator[Any]:
    """Epoch after epoch, shuffled."""
    if importlib.util.find_spec("torch"):
        from torch.utils.data import DataLoader

        while True:
            yield from DataLoader(samples, _BATCH, shuffle=True, drop_last=True)
    random = np.random.default_rng(0)
    while True:
        order = random.permutation(len(samples))
        for start in range(0, len(order) - _BATCH + 1, _BATCH):
            batch = [samples[number] for number in order[start : start + _BATCH]]
            yield tuple(map(np.stack, zip(*batch, strict=True)))
