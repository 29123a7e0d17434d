"""Compressed allreduce: stated bounds, error feedback, the same bits, what is not finite."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives.allreduce import Allreduce
from hpckit.comm.partition import starts
from hpckit.errors import ConfigError
from hpckit.lossy import PowerSGD, Quantised, TopK, compressed

pytestmark = pytest.mark.mpi
FORMS = ["fp16", "bf16", "int8"]
ALL = [*FORMS, "topk:0.1", "powersgd:2"]
DTYPES = [np.float32, np.float64]


def gradient(rank, dtype, kind="random", shape=(30, 37)):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=shape)
    if kind == "spiky":
        x *= 1e4 ** rng.uniform(-1, 1, shape)
    scale = {
        "zero": 0.0,
        "denormal": 3 * np.finfo(dtype).smallest_subnormal,
        "huge": np.finfo(dtype).max / 1e3,
    }
    return (x * scale.get(kind, 1.0)).astype(dtype)


def lost(form, y, ranks):
    """The stated bound on what one compression of y loses, of each element."""
    y = np.abs(y.reshape(-1), dtype=np.float64)
    if form != "int8":
        y[y > {"fp16": 65504, "bf16": np.finfo(np.float32).max / 2}[form]] = np.inf
        return y / {"fp16": 2047, "bf16": 255}[form] + {"fp16": 2.0**-25, "bf16": 2.0**-133}[form]
    edges = starts(y.size, ranks)
    for start, stop in pairwise(edges):
        for block in range(start, stop, 256):
            part = y[block : min(block + 256, stop)]
            part[:] = part.max()
    return y / 253 + np.finfo(np.float32).smallest_normal


def run(comm, x, how, **options):
    y = np.empty_like(x)
    plan = Allreduce(comm, x, out=y, algorithm=compressed(how), **options)
    plan()
    return plan, y


@pytest.mark.parametrize("how", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["random", "spiky", "zero", "denormal", "huge"])
def test_stated_bounds_hold(comm, how, dtype, kind):
    terms = [gradient(rank, dtype, kind) for rank in range(comm.size)]
    exact = sum(term.astype(float) for term in terms)
    plan, y = run(comm, terms[comm.rank], how)
    stated = sum(lost(how, term, comm.size) for term in terms) + 1.01 * lost(how, exact, comm.size)
    inside, y, exact = np.isfinite(stated), y.reshape(-1), exact.reshape(-1)
    rounding = (
        comm.size * np.finfo(dtype).eps * sum(abs(term.astype(float)) for term in terms).reshape(-1)
    )
    error = np.abs(np.where(inside, y, 0) - np.where(inside, exact, 0))
    assert (error[inside] <= (stated + rounding)[inside]).all()
    # Too large for the format, and so it says.
    assert not np.isfinite(y[np.abs(exact) > 1e39]).any() or how == "int8"
    if inside.all():
        assert (error <= plan.error_bound() + rounding).all()


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_lost_is_added_in_the_next_call(comm, how, dtype):
    terms = [gradient(rank, dtype) for rank in range(comm.size)]
    exact = sum(term.astype(float) for term in terms)
    x = terms[comm.rank]
    y, total = np.empty_like(x), np.zeros(x.shape)
    plan = Allreduce(comm, x, out=y, algorithm=compressed(how))
    for call in range(1, 21):
        plan()
        total += y
        rounding = call * 20 * comm.size * np.finfo(dtype).eps * np.abs(exact).max()
        assert np.abs(total - call * exact).max() <= plan.error_bound() + rounding
    relative = np.linalg.norm(total / 20 - exact) / np.linalg.norm(exact)
    assert relative <= {"fp16": 1e-4, "bf16": 5e-4, "int8": 1e-3}.get(how, 0.5)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_on_all_ranks_in_and_out_of_place(comm, how, dtype):
    x = gradient(comm.rank, dtype)
    _, y = run(comm, x, how)
    assert (x == gradient(comm.rank, dtype)).all()
    plan = Allreduce(comm, x, algorithm=compressed(how))
    plan.start()
    while not plan.poll():
        pass
    plan.wait()
    assert len(set(comm.allgather(x.tobytes()))) == 1
    assert x.tobytes() == y.tobytes()
    assert plan.algorithm == how


@pytest.mark.parametrize("how", ALL[:4])
def test_chunks_and_awkward_sizes(comm, how):
    for n in (0, 1, 2, 5, 255, 257, 1000):
        x = np.full(n, 2.0 ** (comm.rank % 3))
        run_chunks(Allreduce(comm, x, algorithm=compressed(how), chunks=3))
        if not how.startswith("topk"):
            np.testing.assert_allclose(
                x, sum(2.0 ** (rank % 3) for rank in range(comm.size)), rtol=0.01
            )


def run_chunks(plan):
    for chunk in (2, 0, 1):
        plan.ready(chunk)
    plan.wait()


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_not_finite_on_one_rank_shows_on_all_and_is_forgotten(comm, how, wrong):
    clean = gradient(comm.rank, np.float32)
    x, y = clean.copy(), np.empty_like(clean)
    if comm.rank == comm.size - 1:
        x[3, 4] = wrong
    plan = Allreduce(comm, x, out=y, algorithm=compressed(how))
    with np.errstate(invalid="ignore", over="ignore"):
        plan()
    assert not np.isfinite(y[3, 4])
    x[:] = clean
    for _ in range(3):
        plan()
    assert np.isfinite(y).all()
    assert np.isfinite(plan.error_bound())


@pytest.mark.parametrize("how", [*FORMS, "topk:0.1", "topk:1.0", "powersgd:2"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", ["overflow", "sum", "nan", "inf", "cancels"])
def test_after_a_result_that_is_not_finite_the_bound_is_infinite_and_the_next_call_clean(
    comm, how, dtype, wrong
):
    """Of one, ten or all elements, too large or not numbers: nothing is added later."""
    greatest = float(np.finfo(dtype).max)
    if wrong == "cancels" and comm.size % 2:
        return
    values = {
        "overflow": greatest,
        "sum": 0.9 * greatest,
        "nan": np.nan,
        "inf": np.inf,
        "cancels": 0.9 * greatest,
    }
    value = values[wrong] * ((-1.0) ** comm.rank if wrong == "cancels" else 1.0)
    for many in (1, 10):
        x = np.ones((8, 8), dtype)
        y = np.empty_like(x)
        plan = Allreduce(comm, x, out=y, algorithm=compressed(how))
        x.reshape(-1)[:many] = value
        with np.errstate(all="ignore"):
            plan()
        finite, bound = np.isfinite(y).all(), plan.error_bound()
        assert np.isinf(bound) or (finite and (wrong == "cancels" or comm.size == 1))
        if finite:
            continue  # bounds that hold are another test
        x[:] = 1
        plan()
        assert np.isfinite(y).all() and np.isfinite(plan.error_bound())
        if not how.startswith("powersgd") and how != "topk:0.1":
            np.testing.assert_allclose(y, comm.size, rtol=0.01)
        for _ in range(12):
            plan()
        assert np.abs(y).max() <= 40 * comm.size  # top-k sends in one call what it kept in several


@pytest.mark.parametrize("how", ALL)
def test_calls_allocate_nothing(comm, how):
    x = gradient(comm.rank, np.float64, shape=(100, 100))
    plan = Allreduce(comm, x, algorithm=compressed(how))
    plan()
    peaks = []
    # Python itself, and other threads, may allocate something during one of them.
    for _ in range(5):
        tracemalloc.start()
        plan()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < x.nbytes / 10


def test_too_large_for_half_precision_is_infinite(comm):
    x = np.full(3, 1e5)
    Allreduce(comm, x, algorithm=compressed("fp16"))()
    assert np.isinf(x).all()


def test_top_k_sends_the_largest(comm):
    terms = [gradient(rank, np.float64, "spiky").reshape(-1) for rank in range(comm.size)]
    k = round(0.1 * terms[0].size)
    exact = np.zeros(terms[0].size)
    for term in terms:
        largest = np.argsort(-np.abs(term), kind="stable")[:k]
        exact[largest] += term[largest]
    x = terms[comm.rank].copy()
    plan = Allreduce(comm, x, algorithm=compressed("topk:0.1"))
    plan()
    np.testing.assert_array_equal(x, exact)
    bound = sum(np.sort(np.abs(term))[-k - 1] for term in terms)
    assert plan.error_bound() == pytest.approx(bound)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_powersgd_finds_matrices_of_low_rank(comm, dtype, order):
    """Sums of rank 2 are exact from the first call; with common columns all contributions."""
    left = np.random.default_rng(1).normal(size=(40, 2))
    terms = [left @ np.random.default_rng(rank).normal(size=(2, 25)) for rank in range(comm.size)]
    x = np.asarray(terms[comm.rank], dtype, order=order)
    plan, y = run(comm, x, "powersgd:2")
    tolerance = 100 * comm.size * np.finfo(dtype).eps
    np.testing.assert_allclose(y, sum(terms), atol=10 * tolerance)
    assert plan.error_bound() < 20 * tolerance or order == "F"
    _, z = run(comm, gradient(comm.rank, dtype), "powersgd:99")
    np.testing.assert_allclose(
        z, sum(gradient(rank, dtype) for rank in range(comm.size)), atol=10 * tolerance
    )


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e18])
def test_powersgd_at_the_ends_of_the_range(comm, scale):
    x = (gradient(comm.rank, np.float64) * scale).astype(np.float32)
    exact = sum(gradient(rank, np.float64) * scale for rank in range(comm.size))
    _, y = run(comm, x, "powersgd:99")
    np.testing.assert_allclose(y, exact, atol=1e-4 * np.abs(exact).max() + 1e-43)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (lambda: compressed("zip"), "compression 'zip' must be 'fp16'"),
        (lambda: compressed("int8:3"), "must be"),
        (lambda: compressed("topk:0"), "above 0"),
        (lambda: compressed("powersgd:1.5"), "rank of 1"),
        (lambda: compressed(None), "must be"),
        (lambda: Quantised("int4"), "must be one of fp16"),
        (lambda: TopK(0.0), "above 0 and up to 1"),
        (lambda: PowerSGD(0), "whole number above 0"),
        (lambda: PowerSGD(2), "two or more dimensions"),
    ],
)
def test_bad_options(comm, algorithm, message):
    with pytest.raises(ConfigError, match=message):
        Allreduce(comm, np.zeros(5), algorithm=algorithm())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compress": "zip"}, "compression 'zip' must be 'fp16'"),
        ({"compress": "int8", "algorithm": "ring"}, "leave out algorithm='ring'"),
        ({"compress": "int8", "reproducible": True}, "leave out compress='int8'"),
        ({"reproducible": True, "algorithm": "ring"}, "leave out algorithm='ring'"),
    ],
)
def test_bad_short_forms(comm, options, message):
    with pytest.raises(ConfigError, match=message):
        Allreduce(comm, np.zeros(5), **options)


def test_short_forms(comm):
    assert Allreduce(comm, np.zeros(5), compress="topk:0.5").algorithm == TopK(0.5).name
    assert Allreduce(comm, np.zeros(5), reproducible=True).algorithm == "reproducible"


def test_another_operation(comm):
    with pytest.raises(ConfigError, match="another operation"):
        Allreduce(comm, np.zeros(5), op=MPI.MAX, algorithm=Quantised("int8"))


def test_other_types_and_other_compressions_on_some_ranks(comm):
    with pytest.raises(ConfigError, match=r"float32 or float64, not MPI\.SUM of int64"):
        Allreduce(comm, np.zeros(5, np.int64), algorithm=compressed("int8"))
    if comm.size > 1:
        with pytest.raises(ConfigError, match="must be the same on all ranks"):
            Allreduce(comm, np.zeros(5), algorithm=compressed("int8" if comm.rank else "fp16"))


def test_bytes(comm):
    array = np.empty((256, 64), np.float32)
    exact = 2 * (comm.size - 1) / comm.size * array.nbytes
    for how, share in (("fp16", 1 / 2), ("int8", 1 / 4), ("powersgd:4", 4 * 320 / 16384)):
        assert compressed(how).sent_bytes(array, comm.size) == pytest.approx(
            share * exact, rel=0.05
        )
    assert compressed("topk:0.1").sent_bytes(array, comm.size) == pytest.approx(
        (comm.size - 1) * 1638 * 8, rel=0.01
    )
