"""Moves in Numba's simulator, which a process of its own must ask for before it loads Numba."""

import sys
from itertools import islice

import numpy as np
from strided_cases import noise, strided_cases

from hpckit import native
from hpckit.comm.device_kernels import moves_thread
from hpckit.comm.device_moves import tables_of
from hpckit.comm.pack import Move, fit
from hpckit.ptx import on_simulator

TYPES = 20
WORDS = (1, 2, 4, 8, 16)


def check(moves, targets, expected):
    tables = tables_of(fit(moves))
    on_simulator.launch(moves_thread, len(tables[0]), *map(native.address, tables))
    for target, right in zip(targets, expected, strict=True):
        np.testing.assert_array_equal(target, right)
    return tables[2]["word"].tolist()


cases = list(islice(strided_cases(1), TYPES))
packed = [np.zeros_like(case.packed) for case in cases]
moves = [case.pack(out) for case, out in zip(cases, packed, strict=True)]
check(moves, packed, [case.packed for case in cases])

# Rows of five words, of each width: what addresses have in common would be chance.
buffer = noise(1024 + 16)
aligned = buffer[-native.address(buffer) % 16 :]
source, target = aligned[:512], aligned[512:]
for word in WORDS:
    ends = native.address(source), (7 * word,), native.address(target), (5 * word,)
    rows = source[: 21 * word].reshape(3, 7 * word)[:, : 5 * word].ravel()
    assert check([Move((3,), 5 * word, *ends)], [target[: rows.size]], [rows]) == [word]
sys.stdout.write(f"{TYPES} types\n")
