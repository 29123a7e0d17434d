"""`hpckit.accelerate(comm)`: who walks the bytes of a derived datatype, our kernels or MPI."""

from __future__ import annotations

import statistics
import time

import numpy as np
from mpi4py import MPI

from hpckit.accelerate.communicators import Intracomm, check_kind, wrap
from hpckit.comm.measure import with_steps
from hpckit.comm.strided import StridedBlock
from hpckit.errors import ConfigError, check_comm, same
from hpckit.machine.model import Model
from hpckit.machine.node_memory import NodeMemory
from hpckit.names import ACCELERATE_METHODS

_CLEARLY = 1.25  # times as fast: what the model says is right to about a quarter
_SAMPLES = 15  # of what our calls cost
_WRITTEN = 1 << 22  # bytes, more than a core's own caches hold


def accelerated(comm: MPI.Intracomm, method: str = "auto") -> Intracomm:
    """The same communicator, with calls that pack by `method` (collective).

    method : `auto`, where the model of the machine says that it pays; `packed`, wherever a datatype
        has a strided form; `datatype`, never
    """
    check_comm(comm)
    check_kind(comm)
    same(comm, "method", method)
    if method not in ACCELERATE_METHODS:
        raise ConfigError(f"method {method!r} is none of {', '.join(ACCELERATE_METHODS)}")
    if method == "auto":
        return wrap(comm, ByModel(with_steps(comm, NodeMemory.of(comm))))
    return wrap(comm, _always if method == "packed" else Intracomm.pays)


class ByModel:
    """Whether two ranks that swap a message are faster if both ends of it are packed by us.

    What MPI's way and ours cost is from the model. What Python adds to each call of ours is
    measured here, by this rank alone.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._near = model.has_messages
        self._calls = _overhead()

    def __call__(self, block: StridedBlock) -> bool:
        model, piece = self._model, (block.nbytes, block.row)
        packed = model.pack(*piece) + model.unpack(*piece)
        packed += model.message(block.nbytes, self._near) + self._calls
        return _CLEARLY * packed < model.datatype(*piece, self._near)


def _always(block: StridedBlock) -> bool:
    return True


def _overhead() -> float:
    """Seconds that a send and a receive of two short rows take longer by our way.

    Python is slower where the caches hold what a solver has just written instead of it, which is
    when messages are sent; so something is written before each sample.
    """
    written = np.ones(_WRITTEN // 8)
    rows = MPI.BYTE.Create_vector(2, 1, 2).Commit()
    ends = [np.zeros(3, np.uint8), 1, rows], [np.zeros(3, np.uint8), 1, rows]

    def sample(comm: MPI.Intracomm) -> float:
        np.negative(written, out=written)
        begin = time.perf_counter()
        comm.Sendrecv(ends[0], 0, 0, ends[1], 0, 0)
        return time.perf_counter() - begin

    comms = wrap(MPI.COMM_SELF, _always), MPI.COMM_SELF
    ours, mpis = (statistics.median(sample(comm) for _ in range(_SAMPLES)) for comm in comms)
    rows.Free()
    return max(0.0, ours - mpis)
