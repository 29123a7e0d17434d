"""Local updates with asynchronous averaging: CO2 (Sun et al., ICLR 2024, algorithm 1).

Each rank makes tau steps of its own; then all take an outer step towards the average of what they
found. The average is one round old: its allreduce is in flight while the next tau steps are made.
With x_t the parameters with which all ranks begin round t, and a_t the average of those with which
they end it,

    m_t = clip(b m_{t-1} + (x_{t-1} - a_{t-1}) / L_t, -c, c)        outer momentum
    x_{t+1} = x_t - r m_t

where L_t is the penalty for the staleness gap: the more the parameters have moved meanwhile, the
less an old average counts. The gap is measured here as by gap-aware methods (Barkai, Hakimi &
Schuster, ICLR 2020), which need no further constant: L_t = 1 + |x_t - x_{t-1}| / (the largest of
these so far), between 1 and 2. The first round only fills the pipeline: x_1 = x_0.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from mpi4py import MPI

from hpckit.collectives.allreduce import Allreduce
from hpckit.collectives.arguments import check_array, is_whole
from hpckit.collectives.halves import Bcast
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.machine.spin import check_deadline, is_number

_STATE = ("_start", "_start_before", "_momentum", "_message", "_farthest", "_steps", "_flying")


class LocalUpdates:
    """Outer steps for parameters that each rank changes in place.

    parameters : (n,) float32 or float64, contiguous; all ranks begin with rank 0's
    tau : local steps in a round
    rate : r above; 1 goes all the way to the average
    momentum : b above
    clip : c above, in the units of the parameters: the most by which an element of the momentum may
        differ from 0
    overlap : False waits for the average of this very round, which is not damped; r = 1 and b = 0
        are plain averaging
    deadline : seconds to wait for other ranks before an `HpckitError` names them; None: for ever
    algorithm : of the sums, as in `Allreduce`; "auto" may round otherwise from run to run

    A step by an average that is not finite is not taken: `HpckitError` on all ranks, and nothing of
    it is kept.

    ::

        outer = LocalUpdates(comm, parameters, tau=8)
        for batch in batches:
            parameters -= rate * gradient(parameters, batch)
            outer.step()
        outer.finish()
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        parameters: np.ndarray,
        *,
        tau: int,
        rate: float = 1.0,
        momentum: float = 0.0,
        clip: float = np.inf,
        overlap: bool = True,
        deadline: float | None = None,
        algorithm: str = "auto",
    ) -> None:
        with together(comm):
            _check(parameters, tau, rate, momentum, clip)
            check_deadline(deadline)
        options = tau, rate, momentum, clip, bool(overlap), deadline
        same(
            comm,
            "size and dtype of the parameters, tau, rate, momentum, clip, overlap and deadline",
            (parameters.size, parameters.dtype.str, *options),
        )
        Bcast(comm, parameters, deadline=deadline)()
        self._parameters = parameters
        self._size = comm.size
        self._tau = tau
        self._rate = rate
        self._decay = momentum
        self._clip = clip
        self._overlap = overlap
        self._start = parameters.copy()  # of this round
        self._start_before = parameters.copy()  # of the round before
        self._momentum = np.zeros_like(parameters)
        self._change = np.zeros_like(parameters)
        # Parameters, and how far the start has moved.
        self._message = np.zeros(parameters.size + 1, parameters.dtype)
        self._plan = Allreduce(comm, self._message, deadline=deadline, algorithm=algorithm)
        self._steps = 0
        self._flying = False  # whether an outer step is to be taken by the message
        self._arrived = False  # whether it is the average already
        self._farthest = 0.0

    def step(self) -> bool:
        """A local step is done; whether that changed the parameters (collective after `tau`)."""
        self._steps += 1
        if self._steps < self._tau:
            if self._flying and not self._arrived:
                self._plan.poll()
            return False
        self._steps = 0
        if self._overlap:
            self._land()
            self._send()
            self._plan.start()
            self._flying = True
            self._arrived = False
        else:
            self._send()
            self._plan()
            self._advance(self._start, 1.0)
        self._parameters[:] = self._start
        return True

    def finish(self) -> None:
        """Take the outer step in flight, without what an unfinished round did (collective)."""
        self._land()
        self._steps = 0
        self._parameters[:] = self._start

    def state(self) -> dict[str, Any]:
        """Copies of all that the next steps depend on, but for the parameters (collective)."""
        self._arrive()
        return {name: copy.copy(getattr(self, name)) for name in _STATE}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was called; the parameters are the caller's (collective)."""
        self._arrive()
        for name in _STATE:
            own = getattr(self, name)
            if isinstance(own, np.ndarray):
                own[:] = state[name]  # the plan holds it
            else:
                setattr(self, name, state[name])
        self._arrived = self._flying

    def _send(self) -> None:
        np.subtract(self._start, self._start_before, out=self._change)
        np.divide(self._parameters, self._size, out=self._message[:-1])
        # Averaged, so that ranks agree in all bits.
        self._message[-1] = np.linalg.norm(self._change) / self._size

    def _land(self) -> None:
        """Take an outer step by the average that was in flight."""
        if not self._flying:
            return
        self._arrive()
        self._flying = False
        moved = float(self._message[-1])
        self._farthest = max(self._farthest, moved)
        self._advance(self._start_before, 1 + (moved / self._farthest if moved else 0.0))

    def _arrive(self) -> None:
        """What is in flight, if anything is, is the average."""
        if self._flying and not self._arrived:
            self._plan.wait()
        self._arrived = self._flying

    def _advance(self, start: np.ndarray, gap: float) -> None:
        """x_{t+1} from x_t and the average of the ranks that began at `start`."""
        _check_finite(self._message)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(start, self._message[:-1], out=self._change)
            np.divide(self._change, gap, out=self._change)
            np.multiply(self._momentum, self._decay, out=self._momentum)
            np.add(self._momentum, self._change, out=self._momentum)
            np.clip(self._momentum, -self._clip, self._clip, out=self._momentum)
            np.multiply(self._momentum, self._rate, out=self._change)
            np.subtract(self._start, self._change, out=self._change)
        try:
            _check_finite(self._change)
        except HpckitError:
            self._momentum.fill(0)
            raise
        self._start_before[:] = self._start
        self._start[:] = self._change


def _check_finite(averaged: np.ndarray) -> None:
    """The same numbers on all ranks, so that all raise."""
    if not np.isfinite(averaged).all():
        wrong = np.count_nonzero(~np.isfinite(averaged))
        raise HpckitError(
            f"{wrong} of {averaged.size} numbers that the ranks' parameters give on average are "
            "not finite: the outer"
            " step was not taken; set the parameters to finite ones on all ranks, and go on with "
            "smaller steps"
        )


def _check(parameters: np.ndarray, tau: int, rate: float, momentum: float, clip: float) -> None:
    check_array(parameters)
    if parameters.dtype not in (np.float32, np.float64):
        raise ConfigError(f"parameters must be float32 or float64, not {parameters.dtype}")
    if not is_whole(tau) or tau < 1:
        raise ConfigError(f"tau={tau!r} must be a whole number above 0")
    if not all(map(is_number, (rate, momentum, clip))) or not (
        rate > 0 and 0 <= momentum < 1 and clip > 0
    ):
        raise ConfigError(
            f"rate={rate} and clip={clip} must be above 0, and momentum={momentum} from 0 to below "
            "1"
        )
