"""Moves in Numba's simulator, which a process of its own must ask for before it loads Numba."""

from itertools import islice

import numpy as np
from strided_cases import strided_cases

from hpckit import native
from hpckit.comm.device_kernels import moves_thread
from hpckit.comm.device_moves import tables_of
from hpckit.comm.pack import fit
from hpckit.ptx import on_simulator

TYPES = 20

cases = list(islice(strided_cases(3), TYPES))
packed = [np.zeros_like(case.packed) for case in cases]
moves = fit(case.pack(out) for case, out in zip(cases, packed, strict=True))
tables = tables_of(moves)
assert set(tables[2]["word"].tolist()) == {1, 2, 4, 8, 16}
on_simulator.launch(moves_thread, len(tables[0]), *map(native.address, tables))
for case, out in zip(cases, packed, strict=True):
    np.testing.assert_array_equal(out, case.packed)
print(TYPES, "types")
