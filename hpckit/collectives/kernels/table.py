"""What a protocol of shared memory and Python tell each other: the words of a table, and numbers.

No kernels here, and no numba: `hpckit.collectives.kernels.shared` and
`hpckit.collectives.algorithms.shared` both read it.
"""

import numpy as np

from hpckit.comm.tables import places

# What a protocol returns: it is done; a rank did not come yet; the caller has to reduce.
DONE, LATE, REDUCE = 0, 1, 2
# How it is called: to go on with what was begun, or to begin; BOTH is an allreduce.
GO_ON, REDUCE_SCATTER, ALLGATHER = 0, 1, 2
BOTH = REDUCE_SCATTER | ALLGATHER

LINE = 64  # bytes of a cache line
COUNTERS = 256  # bytes before the data in each rank's memory: two counters, 128 bytes apart

# One operation; addresses, offsets and lengths are in bytes, a table of addresses has one for each
# rank.
TABLE = np.dtype(
    [
        # state
        ("counter", np.int64),  # what we have posted
        ("stage", np.int64),  # where in which operation we are
        ("step", np.int64),
        ("mode", np.int64),
        ("awaited", np.int64),  # the rank that we wait for
        # all protocols
        ("eager", np.int64),  # polls before yielding the core
        ("rank", np.int64),
        ("ranks", np.int64),
        ("reduction", np.int64),  # address of a kernel; 0: the caller reduces
        ("bases", np.int64),  # table of each rank's memory for the operation
        ("source", np.int64),  # own arrays
        ("target", np.int64),
        # what is reduced next
        ("pointers", np.int64),  # table of what the ranks contribute
        ("result", np.int64),  # where the sum goes
        ("length", np.int64),
        # slots
        ("even", np.int64),  # pointers of even and of odd calls
        ("odd", np.int64),
        ("slot", np.int64),  # length of one
        # direct
        ("targets", np.int64),  # table of each rank's target
        # staged
        ("cuts", np.int64),  # table of where each rank's slice begins, and the end
        ("pieces", np.int64),  # of a slice
        ("piece", np.int64),  # length of one
    ]
)
# The place of each word, for kernels: `get(table, AT.counter)`.
AT = places("AT", TABLE)
