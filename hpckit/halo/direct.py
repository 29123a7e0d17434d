"""Method `direct`: neighbours on this node read straight from fields that are shared arrays.

Those are made by `grid.zeros(shared=True)`. One copy less than `shared`, but an exchange ends only
when the neighbours have read: the caller may write to its fields then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from hpckit.errors import ConfigError
from hpckit.halo.packed import packed_cost
from hpckit.halo.pattern import Pattern
from hpckit.halo.shared import Shared

if TYPE_CHECKING:
    from hpckit.comm.grid import Grid
    from hpckit.comm.pack import Move
    from hpckit.machine.model import Model


class Direct(Shared):
    """As `Shared`, without the packed data."""

    name: ClassVar[str] = "direct"
    _packs: ClassVar[bool] = False

    @staticmethod
    def possible(pattern: Pattern) -> bool:
        return pattern.in_node_memory

    @staticmethod
    def cost(model: Model, pattern: Pattern) -> float:
        seconds = 0.0
        for sizes in pattern.sizes:
            read = sum(model.direct(*piece) for piece in sizes.receives)
            seconds += read if sizes.near else packed_cost(model, sizes)
        flags = model.flag() if any(sizes.near for sizes in pattern.sizes) else 0.0
        return seconds + 2 * flags

    def _partner_moves(self, arrays: Sequence[np.ndarray], i: int, parity: int) -> list[Move]:
        partner, theirs = self._partners[i], self._theirs[i]
        fields = _of_peer(self._pattern.grid, arrays, partner.rank)
        return self._pattern.copy_moves(arrays, partner.receives, fields, theirs.boxes)


def _of_peer(grid: Grid, arrays: Sequence[np.ndarray], rank: int) -> list[np.ndarray]:
    """That rank's arrays which were made together with these."""
    peers = [grid.shared_peers(array) for array in arrays]
    for i, peer in enumerate(peers):
        if peer is None:
            raise ConfigError(
                f"method 'direct' reads fields where they are, but field {i} is not in shared "
                "memory: make it with grid.zeros(shared=True), or use method='shared'"
            )
    return [peer[rank] for peer in peers if peer]
