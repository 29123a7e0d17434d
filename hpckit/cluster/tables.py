"""Rows that kernels and Python share: what stands where in them, defined once.

Kernels see plain pointers, MPI sees plain numbers; so each field is the place of a number in its
row, counted from the row's first.
"""

from __future__ import annotations

import numpy as np

PROPOSAL = np.dtype([(name, np.float64) for name in ("change", "candidate", "slot", "block")])
"""A swap that a rank proposes: change of the loss; candidate, -1 for no proposal; slot of the
medoid to be replaced; block of candidates.
"""

SERVICE = np.dtype(
    [(name, np.int32) for name in ("object", "near", "second", "dn_bits", "ds_bits")]
)
"""How an object is served from now on: slots of its nearest and second medoid, and the bits of
their distances, which are float32.
"""

SWAP = np.dtype([("added", np.int64), ("removed", np.int64), ("loss", np.float64)])
"""A swap that was done: the object that became a medoid, that which was one, and the loss then."""


def _places(row: np.dtype) -> range:
    return range(len(row.names or ()))


CHANGE, CANDIDATE, SLOT, BLOCK = _places(PROPOSAL)
PROPOSAL_LENGTH = len(_places(PROPOSAL))
OBJECT, NEAR, SECOND, DN_BITS, DS_BITS = _places(SERVICE)
SERVICE_LENGTH = len(_places(SERVICE))
