"""Derived datatypes at the speed of hpckit's kernels, in programs that call MPI as ever.

`hpckit.accelerate(comm)` is a communicator that can do all that `comm` can. Its blocking calls with
derived datatypes gather the bytes by our kernels and send them packed, where the model of the
machine says that this is faster than what MPI does; the other end needs to know nothing of it::

    comm = hpckit.accelerate(MPI.COMM_WORLD)
    column = MPI.DOUBLE.Create_vector(64, 1, 64).Commit()
    field = np.zeros((64, 64))
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    comm.Sendrecv([field[0, 62:], 1, column], right, 0, [field, 1, column], left)
    column.Free()

`python -m hpckit.accelerate script.py` does it for a script without a change in it.

`accelerate` is both this package, which `python -m` needs, and the function that users call.
Python makes the package an attribute of `hpckit` as soon as anything imports it, over whatever was
there. So the package itself can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI


class _Function(ModuleType):
    def __call__(self, comm: MPI.Intracomm, method: str = "auto") -> MPI.Intracomm:
        from hpckit.accelerate.methods import accelerated

        return accelerated(comm, method)


accelerate = sys.modules[__name__]
accelerate.__class__ = _Function
