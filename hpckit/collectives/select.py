"""The choice of an algorithm: the model names candidates, calls race them, the fastest stays.

MPI's own allreduce always runs in the race, so that the choice is never worse than that for long.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import numpy as np
from mpi4py import MPI

from hpckit.collectives.algorithms import DEVICE_ALGORITHMS, predict
from hpckit.collectives.channel import Channel
from hpckit.machine.choice import Choice
from hpckit.machine.model import with_links

_RACERS = 3  # beside MPI's own


def choose(
    channel: Channel,
    nbytes: int,
    key: Hashable,
    allowed: Iterable[str],
    make: Callable[[str], object] | None = None,
) -> Choice:
    """Among the algorithms `allowed` for a plan (collective).

    key : what plans have in common that may share a choice
    make : makes one ready, or raises `HpckitError` on all ranks
    """
    if channel.links is None:
        channel.links = with_links(channel.comm, channel.node).links
        assert channel.links is not None
    costs = predict(channel.links, nbytes)
    predicted = {name: cost for name, cost in costs.items() if name in allowed}
    names = _candidates(channel, predicted, allowed)
    known = channel.choices
    return Choice(channel.comm, predicted, names, known=known, key=key, turn=3, least=2, make=make)


def _candidates(channel: Channel, predicted: dict[str, float], allowed: Iterable[str]) -> list[str]:
    """MPI's own, and the likely best others; few by messages on one node, where memory wins."""
    ranking = sorted(predicted, key=predicted.__getitem__)
    likely = ["shared", *ranking[:1]] if channel.one_node else ranking[:_RACERS]
    on_device = [name for name in DEVICE_ALGORITHMS if name in allowed]
    if channel.size == 1:
        return [*on_device, "native"][:1]
    return [*on_device, "native", *(name for name in likely if name in allowed)]


def in_windows(channel: Channel, *arrays: np.ndarray) -> bool:
    """Whether all ranks' arrays lie in windows of their nodes (collective)."""
    inside = all([channel.node.rows(array) is not None for array in arrays])  # noqa: C419  (collective each)
    return channel.comm.allreduce(inside, MPI.LAND)
