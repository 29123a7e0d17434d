"""All ways of an allreduce by their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import ALGORITHMS, ORDERED
from hpckit.collectives.engine import Messages, Way
from hpckit.collectives.native import Native
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError

if TYPE_CHECKING:
    from hpckit.collectives.channel import Channel

Bind = Callable[["Channel", np.ndarray, np.ndarray, MPI.Op, float | None], Way]


def _messages(name: str) -> Bind:
    algorithm = ALGORITHMS[name]

    def bind(
        channel: Channel, source: np.ndarray, target: np.ndarray, op: MPI.Op, deadline: float | None = None
    ) -> Way:
        if name not in ORDERED and not op.is_commutative:
            raise ConfigError(f"algorithm {name!r} reorders operands, but the operation does not commute: {_ORDERED}")
        schedule = algorithm(channel.rank, channel.size, starts(target.size, channel.size))
        return Messages(channel, source, target, op, schedule, deadline)

    return bind


_ORDERED = f"use native, {', '.join(ORDERED)} or auto"
WAYS: dict[str, Bind] = {"native": Native} | {name: _messages(name) for name in ALGORITHMS}
