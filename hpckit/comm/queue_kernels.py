"""Kernel source: the counters of a queue in shared memory, each written by one rank only.

Compiled by `hpckit.native`, used through `hpckit.comm.shared_queue`.
"""

from hpckit.machine.spin_kernels import acquire, get, release
from hpckit.native import export


@export("i8(i8)")
def read(counter):
    """What precedes the other rank's last `advance` in its program is to be seen from now on."""
    return acquire(counter)


@export("void(i8)")
def advance(counter):
    release(counter, get(counter, 0) + 1)
