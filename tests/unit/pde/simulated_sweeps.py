"""Sweeps in Numba's simulator, which a process of its own must ask for before it loads Numba."""

import sys

import numpy as np

from hpckit import native
from hpckit.pde import device_kernels
from hpckit.pde.device_tables import CELLS
from hpckit.ptx import on_simulator

ROWS, COLUMNS = CELLS + 3, 5  # of one box; the other has a cell beside it
SHAPE = 3, ROWS + 2, COLUMNS + 3
KERNELS = {  # arrays, what else is in a line, further arguments
    "diffuse": (2, SHAPE[1] * SHAPE[2], SHAPE[2], (0.1, 0.2, 0.3, 0.4)),
    "push": (4, SHAPE[2], SHAPE[2], 1, (0.1,)),
    "fill": (8, SHAPE[2], SHAPE[2], SHAPE[2], (0.1, 0.2, 0.3)),
    "multiply": (3, SHAPE[2], SHAPE[2], SHAPE[2], ()),
    "wall": (2, SHAPE[1] * SHAPE[2], SHAPE[2], 0, 0, ()),
}


def swept(name, run):
    """All arrays, after `run(table, threads)` of a kernel on them."""
    count, *others, _ = KERNELS[name]
    draw = np.random.default_rng(7)
    arrays = [draw.uniform(-1, 1, SHAPE) for _ in range(count)]
    threads = 2 * COLUMNS  # of the first box
    boxes = (0, 1, ROWS, COLUMNS, 1), (threads, 1, 1, 1, 1 + COLUMNS)
    table = np.array(
        [
            [*first_and_extents, *(native.address(a[1:, 1:, column:]) for a in arrays), *others]
            for *first_and_extents, column in boxes
        ]
    )
    run(native.address(table), threads + 1)
    return arrays


def compare(name):
    numbers = KERNELS[name][-1]
    factory, twin = (
        getattr(device_kernels, f"{name}_f8_thread"),
        getattr(native.load(device_kernels.__name__), f"{name}_f8"),
    )
    found = swept(
        name,
        lambda table, threads: on_simulator.launch(
            factory, -(-threads // on_simulator.THREADS), table, 2, *numbers
        ),
    )
    expected = swept(name, lambda table, threads: twin(1, table, 2, *numbers))
    before = swept(name, lambda *_: None)
    assert any((a != b).any() for a, b in zip(found, before, strict=True)), name
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


for each in KERNELS:
    compare(each)
sys.stdout.write(f"{len(KERNELS)} kernels\n")
