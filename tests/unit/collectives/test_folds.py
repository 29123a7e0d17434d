"""Reductions on a device: every kernel's twin gives the bits of the host's in the same order."""

import numpy as np
import pytest
from mpi4py import MPI

from hpckit import native
from hpckit.collectives.folds import ELEMENTS, MODULE, TYPES, fold_kernel
from hpckit.collectives.reduction import Reduction, defined
from hpckit.comm.device import Kernel
from hpckit.errors import ConfigError

RANKS = 3
CASES = [
    (np.dtype(code), name) for code in "?bBhHiIlLqQefdgFDG" for name in defined(np.dtype(code))
]


def numbers(dtype: np.dtype, n: int, seed: int) -> np.ndarray:
    """Any bits of integers; of floats many zeros, infinities and NaN with payloads and signs."""
    random = np.random.default_rng(seed)
    if dtype.kind == "b":
        return random.integers(0, 2, n).astype(bool)
    if dtype.kind in "iu":
        return np.frombuffer(random.bytes(n * dtype.itemsize), dtype).copy()
    parts = n * (2 if dtype.kind == "c" else 1)
    values = random.normal(size=parts).astype(dtype.char.lower())
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0], values.dtype)
    chosen = random.random(parts) < 0.5
    values[chosen] = random.choice(special, chosen.sum())
    bits = values.view(f"i{values.itemsize}")
    bits[np.isnan(values)] |= random.integers(0, 99, np.isnan(values).sum())
    bits[random.random(parts) < 0.1] ^= np.iinfo(bits.dtype).min
    return values.view(dtype)


def reduced_here(op: MPI.Op, arrays: list[np.ndarray]) -> np.ndarray:
    """By the host's kernel, in their order."""
    result = arrays[0].copy()
    table = np.array([native.address(array) for array in arrays])
    kernel = Reduction(op, result.dtype).kernel
    kernel(native.address(result), native.address(table), len(arrays), 0, result.nbytes)
    return result


def reduced_there(op: MPI.Op, arrays: list[np.ndarray], into: np.ndarray) -> None:
    kernel, size = fold_kernel(op, into.dtype)
    table = np.array([native.address(array) for array in arrays])
    n = into.nbytes // size
    arguments = native.address(into), native.address(table), len(arrays), 0, n
    getattr(native.load(MODULE), kernel.name)(-(-n // ELEMENTS), *arguments)


def has_kernel(op: MPI.Op, dtype: np.dtype) -> bool:
    try:
        fold_kernel(op, dtype)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("name", TYPES)
def test_the_bits_are_those_of_the_host(name):
    op = getattr(MPI, name.upper())
    types = [dtype for dtype, each in CASES if each.lower() == name and has_kernel(op, dtype)]
    assert types
    for dtype in types:
        for n in (1, 5, 511, 512, 513, 3001):
            arrays = [numbers(dtype, n, seed) for seed in range(RANKS)]
            expected = reduced_here(op, arrays)
            result = np.zeros(n + 1, dtype)  # one more, which stays as it is
            reduced_there(op, arrays, result[:n])
            assert result[:n].tobytes() == expected.tobytes(), (dtype, n)
            assert result[n] == 0
            reduced_there(op, arrays, arrays[1])  # in place
            assert arrays[1].tobytes() == expected.tobytes(), (dtype, n)


def test_one_array_is_brought_into_the_form_of_a_result():
    x = np.array([np.nan, -np.nan, -0.0, 3.0])
    x.view("i8")[:2] |= 5
    y = np.empty_like(x)
    reduced_there(MPI.SUM, [x], y)
    assert y.tobytes() == np.array([np.nan, np.nan, -0.0, 3.0]).tobytes()


def test_every_kernel_there_is_serves_a_type():
    used = {
        fold_kernel(getattr(MPI, name), dtype)[0]
        for dtype, name in CASES
        if has_kernel(getattr(MPI, name), dtype)
    }
    assert used == {Kernel(MODULE, f"{name}_{kind}") for name in TYPES for kind in TYPES[name]}
    assert all(hasattr(native.load(MODULE), kernel.name) for kernel in used)


@pytest.mark.parametrize(
    ("op", "dtype", "words"),
    [
        (MPI.SUM, "f2", "MPI.SUM of float16"),
        (MPI.MAX, "i2", "MPI.MAX of int16"),
        (MPI.PROD, "D", "MPI.PROD of complex128"),
    ],
)
def test_what_has_no_kernel_is_named(op, dtype, words):
    with pytest.raises(ConfigError, match=words):
        fold_kernel(op, np.dtype(dtype))


def test_operations_of_the_user_have_no_kernel():
    op = MPI.Op.Create(lambda a, b, datatype: None, commute=True)
    with pytest.raises(ConfigError, match="operations of the user"):
        fold_kernel(op, np.dtype(float))
    op.Free()
