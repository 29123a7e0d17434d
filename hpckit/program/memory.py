"""Whether a run fits into its nodes' memory: asked before the first large array is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpckit.errors import ConfigError, together
from hpckit.machine.memory import available
from hpckit.units import amount

if TYPE_CHECKING:
    from mpi4py import MPI


def check(comm: MPI.Intracomm, need: float, keys: str) -> None:
    """`ConfigError` on all ranks where the ranks of a node need more than it has (collective).

    need : bytes of this rank; keys : what to make smaller
    """
    from hpckit.machine.node_memory import node_ranks

    with node_ranks(comm) as node:
        total, ranks = node.allreduce(float(need)), node.size
    with together(comm):
        if total > available():
            raise ConfigError(
                f"this run needs about {amount(total)} on a node of {ranks} "
                f"rank{'s' * (ranks > 1)}, which has"
                f" {amount(available())} left: use more nodes, or smaller {keys}"
            )
