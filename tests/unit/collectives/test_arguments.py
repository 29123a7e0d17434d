"""What plans refuse: overlaps, ranks that differ, no array, operation or communicator."""

import numpy as np
import pytest
from mpi4py import MPI
from numpy.lib.stride_tricks import as_strided

from hpckit.collectives import (
    Allgather,
    Allreduce,
    Bcast,
    ReduceScatter,
    Reproducible,
    allreduce,
    empty,
    reproducible_sum,
    ring_map,
)
from hpckit.collectives.algorithms import ALGORITHMS
from hpckit.errors import ConfigError, HpckitError
from hpckit.lossy import LayerWise, LocalUpdates, Quantised, TopK
from hpckit.watch import Watch

pytestmark = pytest.mark.mpi
N = 5000
NAMES = ("auto", *ALGORITHMS)
UNION = np.dtype({"names": ["a", "b"], "formats": ["f8", "f8"], "offsets": [0, 4], "itemsize": 16})
OVERLAPPING = {
    "shifted": lambda x: (x[:-1], x[1:]),
    "shifted back": lambda x: (x[1:], x[:-1]),
    "reversed": lambda x: (x, x[::-1]),
    "strided": lambda x: (x[: N // 2], x[::2][: N // 2]),
    "transposed": lambda x: (x[:4900].reshape(70, 70), x[:4900].reshape(70, 70).T),
    "another shape": lambda x: (
        x[:4900].reshape(70, 70)[:, :35],
        x[1:4901].reshape(70, 70)[:, :35],
    ),
    "half": lambda x: (x[: N // 2 + 1], x[N // 2 - 1 : N]),
    "another type": lambda x: (x[:2], x.view("f4")[1:5].view("f8")),
    "union": lambda x: (lambda u: (u["a"], u["b"]))(x[: N // 2 * 2].view(UNION)),
}


@pytest.mark.parametrize("algorithm", NAMES)
@pytest.mark.parametrize("how", OVERLAPPING)
def test_out_that_overlaps_the_array(comm, algorithm, how):
    x = np.arange(float(N))
    array, out = OVERLAPPING[how](x)
    with pytest.raises(ConfigError, match="overlaps the array in memory"):
        Allreduce(comm, array, out=out, algorithm=algorithm)
    assert (x == np.arange(N)).all()


@pytest.mark.parametrize("algorithm", NAMES)
def test_out_in_windows_and_in_chunks(comm, algorithm):
    x = empty(comm, N)
    for chunks in (1, 3):
        with pytest.raises(ConfigError, match="overlaps the array in memory"):
            Allreduce(comm, x[:-1], out=x[1:], algorithm=algorithm, chunks=chunks)


@pytest.mark.parametrize(
    "options",
    [{"algorithm": Quantised("fp16")}, {"algorithm": TopK(0.5)}, {"algorithm": Reproducible()}],
)
def test_out_of_other_ways(comm, options):
    x = np.zeros(N)
    with pytest.raises(ConfigError, match="overlaps the array in memory"):
        Allreduce(comm, x[:-1], out=x[1:], **options)


@pytest.mark.parametrize("algorithm", NAMES)
def test_the_array_itself_as_out_and_views_that_are_apart(comm, algorithm):
    x, pairs = np.full((N, 2), comm.rank + 1.0), np.zeros(N, [("a", "f8"), ("b", "f8")])
    pairs["a"], total = comm.rank + 1.0, comm.size * (comm.size + 1) / 2
    Allreduce(comm, x, out=x[...], algorithm=algorithm)()
    assert (x == total).all()
    x[:, 0] = comm.rank + 1.0
    Allreduce(comm, x[:, 0], out=x[:, 1], algorithm=algorithm)()
    assert (x == [comm.rank + 1.0, total]).all()
    Allreduce(comm, pairs["a"], out=pairs["b"], algorithm=algorithm)()
    assert (pairs["a"] == comm.rank + 1.0).all() and (pairs["b"] == total).all()


@pytest.mark.parametrize(
    "target",
    [
        lambda: as_strided(np.zeros(1), (5,), (0,)),
        lambda: as_strided(np.zeros(9), (5, 5), (8, 8)),
        lambda: as_strided(np.zeros(9), (5,), (4,)),
    ],
)
def test_results_that_overlap_themselves(comm, target):
    for arguments in ({"out": target()}, {}):
        array = np.zeros(target().shape) if arguments else target()
        with pytest.raises(ConfigError, match="elements of the result's array overlap"):
            Allreduce(comm, array, **arguments)


def test_a_source_may_overlap_itself(comm):
    result = np.empty((3, 4))
    Allreduce(comm, np.broadcast_to(np.arange(4.0), (3, 4)), out=result)()
    np.testing.assert_array_equal(result, np.broadcast_to(comm.size * np.arange(4.0), (3, 4)))


# -- ranks that differ

COMMUTING = MPI.Op.Create(lambda a, b, _: None, commute=True)
ORDERED = MPI.Op.Create(lambda a, b, _: None, commute=False)
DIFFERENT = [
    (Allreduce, {"array": np.zeros(4)}),
    (Allreduce, {"array": np.zeros((2, 3))}),
    (Allreduce, {"array": np.zeros(6, "f4")}),
    (Allreduce, {"array": np.zeros(12)[::2]}),
    (Allreduce, {"out": np.zeros(6)}),
    (Allreduce, {"op": MPI.MAX}),
    (Allreduce, {"op": COMMUTING}),
    (Allreduce, {"op": ORDERED}),
    (Allreduce, {"algorithm": "native"}),
    (Allreduce, {"chunks": 2}),
    (Allreduce, {"algorithm": Quantised("fp16")}),
    (Allreduce, {"algorithm": Reproducible()}),
    (Allreduce, {"deadline": 5}),
    (ReduceScatter, {"array": np.zeros(4)}),
    (ReduceScatter, {"array": np.zeros(6, int)}),
    (ReduceScatter, {"algorithm": "ring"}),
    (ReduceScatter, {"op": MPI.MAX}),
    (ReduceScatter, {"op": ORDERED}),
    (ReduceScatter, {"deadline": 5}),
    (Allgather, {"array": np.zeros(4)}),
    (Allgather, {"algorithm": "ring"}),
    (Allgather, {"deadline": 5}),
    (Bcast, {"root": 1}),
    (Bcast, {"array": np.zeros(4)}),
    (Bcast, {"deadline": 5}),
    (allreduce, {"array": np.zeros(4)}),
    (allreduce, {"array": np.zeros((2, 3))}),
    (allreduce, {"array": np.zeros(6, bool)}),
    (allreduce, {"op": MPI.MIN}),
    (allreduce, {"op": ORDERED}),
    (allreduce, {"algorithm": "ring"}),
]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("make", "others"), DIFFERENT)
def test_ranks_that_differ(comm, make, others):
    """One error, the same on all ranks, and the communicator goes on."""
    arguments = {"array": np.zeros(6)} | (others if comm.rank == comm.size - 1 else {})
    with pytest.raises(
        ConfigError, match=r"must be the same on all ranks|of .* ranks failed"
    ) as error:
        make(comm, **arguments)
    assert len(set(comm.allgather(str(error.value)))) == 1
    assert (allreduce(comm, np.ones(3)) == comm.size).all()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("others", [Allgather, Bcast, Allreduce])
def test_ranks_that_make_different_plans(comm, others):
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        (others if comm.rank else ReduceScatter)(comm, np.zeros(6))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("others", [{"patience": 5}, {"check": True}, {"keep": 5}])
def test_watches_that_differ(comm, others):
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        Watch(comm, **(others if comm.rank else {}))


@pytest.mark.mpi(min_size=2)
def test_a_plan_that_some_ranks_watch(comm):
    with Watch(comm) as watched, pytest.raises(ConfigError, match="must be the same on all ranks"):
        Allreduce(watched if comm.rank else comm, np.zeros(6))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    "others", [{"tau": 3}, {"rate": 0.5}, {"deadline": 5}, {"parameters": np.zeros(5)}]
)
def test_local_updates_that_differ(comm, others):
    arguments = {"parameters": np.zeros(6), "tau": 2} | (others if comm.rank else {})
    with pytest.raises(ConfigError, match="must be the same on all ranks"):
        LocalUpdates(comm, **arguments)


# -- what is none


class Sparse:
    """As `scipy.sparse` matrices look to NumPy."""

    shape, dtype = (3, 3), np.dtype(float)


def no_arrays():
    read_only = np.zeros(6)
    read_only.flags.writeable = False
    return [
        np.ma.masked_array(np.zeros(6), mask=[1, 0, 0, 0, 0, 0]),
        np.ma.masked_array(np.zeros(6)),
        Sparse(),
        "text",
        [[1.0], [2.0, 3.0]],
        np.array([None] * 6),
        np.array(["a"] * 6),
        np.zeros(6, "M8[s]"),
        np.zeros(6, [("a", float)]),
        np.zeros(6, ">f8"),
    ], [[1.0] * 6, read_only]


ANY = [lambda c, x: allreduce(c, x)]
WRITTEN = [
    Allreduce,
    lambda c, x: Allreduce(c, np.zeros(6), out=x),
    ReduceScatter,
    Allgather,
    Bcast,
    lambda c, x: LocalUpdates(c, x, tau=1),
]


@pytest.mark.parametrize("make", ANY + WRITTEN)
def test_what_is_no_array_of_numbers(comm, make):
    nothing, only_read = no_arrays()
    for array in nothing + (only_read if make in WRITTEN else []):
        for last_only in {False, comm.size > 1}:
            given = array if comm.rank == comm.size - 1 or not last_only else np.zeros(6)
            with pytest.raises(ConfigError) as error:
                make(comm, given)
            assert "\n" not in str(error.value)


class Own(np.ndarray):
    """A subclass."""


def test_lists_and_numbers_are_summed(comm):
    assert allreduce(comm, [1, 2]).tolist() == [comm.size, 2 * comm.size]
    assert allreduce(comm, 1.5) == 1.5 * comm.size
    assert allreduce(comm, np.ones(3).view(Own)).tolist() == [comm.size] * 3
    only_read = np.broadcast_to(1.0, (3,))
    assert (allreduce(comm, only_read) == comm.size).all()


@pytest.mark.parametrize(
    "block",
    [np.ma.masked_array(np.zeros(3)), [1.0], None, np.zeros((4, 4)).T[::2], np.array([None])],
)
def test_blocks_that_do_not_travel(comm, block):
    with pytest.raises(ConfigError, match=r"masked|ring_map takes"):
        ring_map(comm, block if comm.rank == comm.size - 1 else np.zeros(3), lambda *_: None)
    with pytest.raises(ConfigError, match="takes a function"):
        ring_map(comm, np.zeros(3), None)


@pytest.mark.parametrize("deadline", [0, -1, np.nan, "soon", True])
@pytest.mark.parametrize("make", [Allreduce, ReduceScatter, Allgather, Bcast])
def test_deadlines(comm, make, deadline):
    with pytest.raises(ConfigError, match=r"deadline=.* must be a number of seconds above 0"):
        make(comm, np.zeros(3), deadline=deadline)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: Bcast(c, np.zeros(3), root=0.0), "must be a rank"),
        (lambda c: Bcast(c, np.zeros(3), root="0"), "must be a rank"),
        (lambda c: Bcast(c, np.zeros(3), root=-1), "must be a rank"),
        (lambda c: ReduceScatter(c, np.zeros(3), cuts=3), "rising offsets"),
        (lambda c: ReduceScatter(c, np.zeros(3), cuts=["a"] * (c.size + 1)), "rising offsets"),
        (lambda c: ReduceScatter(c, np.zeros(3), cuts=[0.0] * c.size + [3]), "rising offsets"),
        (lambda c: ReduceScatter(c, np.zeros(3), op=MPI.OP_NULL), "null or was freed"),
        (lambda c: ReduceScatter(c, np.zeros(3), algorithm=["ring"]), "must be one of"),
        (lambda c: Allreduce(c, np.zeros(3), algorithm=["ring"]), "must be one of"),
        (lambda c: Allreduce(c, np.zeros(3), chunks=2.0), "whole number"),
        (lambda c: Allreduce(c, np.zeros(3), op=None), "must be an MPI.Op"),
        (lambda c: allreduce(c, np.zeros(3), op=None), "must be an MPI.Op"),
        (lambda c: allreduce(c, np.zeros(3), op=MPI.OP_NULL), "null or was freed"),
        (lambda c: allreduce(c, np.zeros(3), algorithm={}), "must be one of"),
        (lambda c: empty(c, -1), "whole numbers from 0 on"),
        (lambda c: empty(c, (2, 1.5)), "whole numbers from 0 on"),
        (lambda c: empty(c, 3, object), "whole numbers from 0 on"),
        (lambda c: Watch(c, patience=np.nan), "must be above 0"),
        (lambda c: Watch(c, patience="long"), "must be above 0"),
        (lambda c: Watch(c, keep=1.5), "must be above 0"),
        (lambda c: LocalUpdates(c, np.zeros(3), tau=2.0), "tau=2.0"),
        (lambda c: LocalUpdates(c, np.zeros(3), tau=1, rate="fast"), "rate=fast"),
        (lambda c: LocalUpdates(c, np.zeros(3, int), tau=1), "float32 or float64"),
        (lambda c: LayerWise(c, [[1.0]], [Quantised("fp16")], Quantised("fp16")), "got list"),
        (
            lambda c: LayerWise(c, [np.ma.zeros(3)], [Quantised("fp16")], Quantised("fp16")),
            "masked",
        ),
        (lambda c: reproducible_sum(c, np.ma.zeros(3)), "masked"),
    ],
)
def test_arguments_that_are_none(comm, make, message):
    with pytest.raises(ConfigError, match=message):
        make(comm)


USES = [
    lambda c: Allreduce(c, np.zeros(3)),
    lambda c: allreduce(c, np.zeros(3)),
    lambda c: ReduceScatter(c, np.zeros(3)),
    lambda c: Allgather(c, np.zeros(3)),
    lambda c: Bcast(c, np.zeros(3)),
    lambda c: ring_map(c, np.zeros(3), lambda *_: None),
    lambda c: empty(c, 3),
    lambda c: Watch(c),
    lambda c: LocalUpdates(c, np.zeros(3), tau=1),
    lambda c: LayerWise(c, [np.zeros(3)], [Quantised("fp16")], Quantised("fp16")),
    lambda c: reproducible_sum(c, np.zeros(3)),
]


@pytest.mark.parametrize("use", USES)
def test_communicators_that_are_none(comm, use):
    freed = comm.Dup()
    freed.Free()
    for none, message in (
        (MPI.COMM_NULL, "COMM_NULL"),
        (freed, "freed"),
        (None, "NoneType"),
        (3, "int"),
    ):
        with pytest.raises(ConfigError, match=message):
            use(none)


@pytest.mark.mpi(min_size=2)
def test_intercommunicators(comm):
    half = comm.Split(comm.rank % 2, comm.rank)
    between = half.Create_intercomm(0, comm, 1 - comm.rank % 2)
    for use in USES:
        with pytest.raises(ConfigError, match="intercommunicator"):
            use(between)
    between.Free()
    half.Free()


# -- operations


def operation(ufunc, commute=True):
    def reduce(a, b, _):
        y = np.frombuffer(b, float)
        ufunc(np.frombuffer(a, float), y, out=y)

    return MPI.Op.Create(reduce, commute=commute)


def test_an_operation_whose_handle_is_used_again(comm):
    """MPI gives the handle of one that was freed to the next, and Python its identity."""
    x = np.array([2.0, 3.0]) + comm.rank
    everyone = comm.allgather(x)
    for _ in range(20):
        for ufunc in (np.maximum, np.multiply, np.minimum, np.add):
            op = operation(ufunc)
            for _ in range(2):
                np.testing.assert_array_equal(allreduce(comm, x, op=op), ufunc.reduce(everyone))
            op.Free()
            del op


@pytest.mark.parametrize("algorithm", ["native", "oneshot", "shared", "auto"])
def test_a_plan_whose_operation_is_freed(comm, algorithm):
    x, op = np.ones(3), operation(np.add)
    plans = [Allreduce(comm, x, op=op, algorithm=algorithm), ReduceScatter(comm, x, op=op)]
    plans[0]()
    assert (x == comm.size).all()
    op.Free()
    for plan in plans:
        for call in (plan, plan.start):
            with pytest.raises(HpckitError, match="operation of this plan was freed"):
                call()


# -- ring_map


def test_what_a_function_keeps_of_a_block_stays(comm):
    own = np.full((4, 3), float(comm.rank))
    keep = [
        lambda b: b,
        lambda b: b[1:],
        lambda b: [b.T],
        lambda b: {"x": b[::-1, 0]},
        lambda b: memoryview(b),
    ]
    for kept in keep:
        parts = ring_map(comm, own, lambda block, _, kept=kept: kept(block))
        for rank, part in enumerate(parts):
            found = (
                part["x"] if isinstance(part, dict) else part[0] if isinstance(part, list) else part
            )
            assert (np.asarray(found) == rank).all()


def test_a_block_is_for_reading(comm):
    own = np.full(4, float(comm.rank))

    def write(block, _):
        block += 1

    with pytest.raises(HpckitError, match="read-only"):
        ring_map(comm, own, write)
    assert (own == comm.rank).all() and own.flags.writeable
    records = np.zeros(3, [("a", "i4"), ("b", "f8", 2)])
    assert (
        ring_map(comm, records, lambda block, _: block.dtype == records.dtype) == [True] * comm.size
    )
    assert ring_map(comm, np.zeros((2, 0)), lambda block, _: block.shape) == [(2, 0)] * comm.size
