"""Who is late: a recorder of collectives, MPI's own and those of plans."""

from hpckit.watch.recorder import Watch

__all__ = ["Watch"]
