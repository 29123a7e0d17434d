"""The tables that Python and the kernels of `hpckit.comm.moves` share; words are int64.

Kernels get the address of a table and read it word by word: `get(row, MOVE_AT.counts + 1)`. No
kernels here, and no numba.
"""

from collections import namedtuple
from typing import Any

import numpy as np

LOOPS = 4  # of a move, around its row

# One strided copy, or two with the same shape and strides: addresses, lengths and strides in bytes,
# loops outermost first. The second one, the twin, is moved in the same sweep; 0: there is none.
MOVE = np.dtype(
    [
        ("source", np.int64),
        ("target", np.int64),
        ("twin_source", np.int64),
        ("twin_target", np.int64),
        ("row", np.int64),  # contiguous bytes
        ("counts", np.int64, LOOPS),
        ("source_strides", np.int64, LOOPS),
        ("target_strides", np.int64, LOOPS),
    ]
)

# What else a device's kernel needs of a move (see `hpckit.comm.device_kernels`); 32-bit words.
# Divisions are by the pieces of a row, then by the counts of the loops from the inside out.
DIVISION = np.dtype(
    [
        ("word", np.uint32),  # bytes that are copied at once
        ("piece", np.uint32),  # bytes of a row that one number stands for
        ("last", np.uint32),  # number of the last piece
        ("counts", np.uint32, 1 + LOOPS + 1),  # 0 after the last
        ("multipliers", np.uint32, 1 + LOOPS),
        ("shifts", np.uint32, 1 + LOOPS),
    ]
)

# What a block of that kernel does: up to so many pieces of a move, from which one on.
PIECES = 1024
WORK = np.dtype([("move", np.uint32), ("first", np.uint32)])

# A rank of this node that a rank exchanges with, through memory that they share.
NEIGHBOUR = np.dtype(
    [
        ("posted", np.int64),  # addresses of its counters
        ("finished", np.int64),
        ("moves", np.int64),  # how many move its data to us
        ("even", np.int64),  # tables of them, in exchanges of even and of odd number
        ("odd", np.int64),
    ]
)

# What a rank does in an exchange through shared memory.
EXCHANGE = np.dtype(
    [
        ("posted", np.int64),  # addresses of our counters
        ("finished", np.int64),
        ("polls", np.int64),  # before giving up
        ("eager", np.int64),  # polls before yielding the core
        ("next", np.int64),  # the neighbour whose turn it is
        ("neighbours", np.int64),  # how many
        ("table", np.int64),  # of them
        ("moves", np.int64),  # how many of our own
        ("even", np.int64),  # tables of them
        ("odd", np.int64),
        ("lag", np.int64),  # exchanges that a neighbour may be behind: one for each buffer
        ("drains", np.int64),  # whether the exchange ends only when the neighbours have read
    ]
)


def places(name: str, table: np.dtype) -> Any:
    """Where each field begins, in words, as a named tuple that kernels can read."""
    fields = table.fields or {}
    words = [field[1] // field[0].base.itemsize for field in fields.values()]
    return namedtuple(name, fields)(*words)  # pyright: ignore


MOVE_AT = places("MOVE_AT", MOVE)
DIVISION_AT = places("DIVISION_AT", DIVISION)
WORK_AT = places("WORK_AT", WORK)
NEIGHBOUR_AT = places("NEIGHBOUR_AT", NEIGHBOUR)
EXCHANGE_AT = places("EXCHANGE_AT", EXCHANGE)
