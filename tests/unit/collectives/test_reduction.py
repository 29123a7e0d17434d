"""One rule for NaN, infinities, zeros and truth, whatever the algorithm, ranks and place."""

from functools import reduce

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives import messages
from hpckit.collectives.algorithms import ALGORITHMS, IN_RANK_ORDER, native, possible, shared
from hpckit.collectives.algorithms.shared import SharedReduction
from hpckit.collectives.allreduce import Allreduce, allreduce
from hpckit.collectives.channel import Channel
from hpckit.collectives.halves import ReduceScatter
from hpckit.collectives.persistent import Operands
from hpckit.collectives.reduction import Reduction
from hpckit.errors import ConfigError

pytestmark = pytest.mark.mpi
SUMS = ("SUM", "PROD")
EXTREMES = ("MIN", "MAX")
LOGICAL = ("LAND", "LOR", "LXOR")
BITS = ("BAND", "BOR", "BXOR")
FLOATS = {**dict.fromkeys("efdg", SUMS + EXTREMES), **dict.fromkeys("FDG", SUMS)}
WHOLE = {
    "?": LOGICAL,
    "b": LOGICAL + BITS,
    "q": LOGICAL + BITS + EXTREMES + SUMS,
    "H": LOGICAL + BITS,
}
CASES = [
    (name, code) for table in (FLOATS, WHOLE) for code, names in table.items() for name in names
]


def floats(rng, n, dtype):
    """Special values, NaNs with payloads, and a few whose sums and products are exact."""
    word = {2: "u2", 4: "u4", 8: "u8"}.get(dtype.itemsize)
    values = np.array(
        [np.inf, -np.inf, 0.0, -0.0, 0.0, -0.0, 1.0, -1.0, 2.0, -0.5, np.nan, -np.nan], dtype
    )
    x = rng.choice(values, n)
    if word:
        bits = x.view(word)
        bits[np.isnan(x)] |= rng.integers(1, 200, np.isnan(x).sum(), word)
    x[rng.random(n) < 0.5] = rng.choice(values[2:6])  # results of zeros are rare enough otherwise
    return x


def terms(ranks, n, dtype, seed=0):
    """Each rank's array."""
    rngs = [np.random.default_rng([seed, rank]) for rank in range(ranks)]
    if dtype.kind == "f":
        return [floats(rng, n, dtype) for rng in rngs]
    if dtype.kind == "c":
        return [floats(rng, 2 * n, np.dtype(dtype.char.lower())).view(dtype) for rng in rngs]
    if dtype.kind == "b":
        # 2 is true, too.
        return [(rng.integers(0, 3, n) % 3).astype("u1").view(bool) for rng in rngs]
    return [(rng.integers(-5, 5, n) * rng.integers(0, 2, n)).astype(dtype) for rng in rngs]


def rule(name, arrays):
    """The rule, as docs/collectives.md states it."""
    dtype = arrays[0].dtype
    with np.errstate(all="ignore"):
        if name in LOGICAL:
            truth = [
                np.ascontiguousarray(a).view("u1") != 0 if dtype.kind == "b" else a != 0
                for a in arrays
            ]
            return reduce(
                {"LAND": np.logical_and, "LOR": np.logical_or, "LXOR": np.logical_xor}[name], truth
            ).astype(dtype)
        if name in BITS:
            return reduce(
                {"BAND": np.bitwise_and, "BOR": np.bitwise_or, "BXOR": np.bitwise_xor}[name], arrays
            )
        ufunc = {"SUM": np.add, "PROD": np.multiply, "MIN": np.minimum, "MAX": np.maximum}[name]
        result = reduce(lambda a, b: ufunc(a, b).astype(dtype), arrays)
    if name in EXTREMES and dtype.kind == "f":
        plus, minus = (
            np.any([(a == 0) & (np.signbit(a) == s) for a in arrays], axis=0) for s in (False, True)
        )
        zero = result == 0
        result = np.where(
            zero, np.where(plus if name == "MAX" else ~minus, 0.0, -0.0), result
        ).astype(dtype)
    if name == "PROD" and dtype.kind == "c" and len(arrays) > 1:
        result = result + np.zeros(1, dtype)
        result[~np.all([np.isfinite(a) for a in arrays], axis=0)] = complex(np.nan, np.nan)
    if dtype.kind in "fc":
        parts = np.ascontiguousarray(result).view(dtype.char.lower())
        parts[np.isnan(parts)] = np.nan
        return parts.view(dtype)
    return result


def bits(x):
    """Its bytes, but for those of a long double that mean nothing."""
    if x.dtype.char not in "gG":
        return x.tobytes()
    parts = np.ascontiguousarray(x).view("g")
    return b"".join(part.tobytes() for part in (parts.astype(float), np.signbit(parts)))


def agreed(comm, x, result):
    assert bits(x) == bits(result)
    assert len(set(comm.allgather(bits(x)))) == 1


@pytest.mark.mpi(max_size=1)
def test_two_arrays_follow_the_rule_either_way_round():
    """All operations and types: what every algorithm is made of."""
    for name, code in CASES:
        one, two = terms(2, 205, np.dtype(code))
        result, reduction = rule(name, [one, two]), Reduction(getattr(MPI, name), one.dtype)
        for left, right in ((one, two), (two, one)):
            for into in (0, 1):
                operands = left.copy(), right.copy()
                reduction.fold(*operands, operands[into])()
                assert bits(operands[into]) == bits(result)
        if reduction.through != getattr(MPI, name):  # what MPI itself is to use
            reduction.through.Reduce_local([one, reduction.type], [two, reduction.type])
            assert bits(two) == bits(result)


FEW = [("MAX", "d"), ("MIN", "e"), ("SUM", "F"), ("PROD", "D"), ("LXOR", "?"), ("MAX", "g")]


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
def test_one_rule_for_all_algorithms(comm, algorithm):
    for name, code in CASES if algorithm == "native" else FEW:
        mine = terms(comm.size, 205, np.dtype(code))
        result, out = rule(name, mine), np.empty_like(mine[0])
        x = mine[comm.rank].copy()
        Allreduce(comm, x, out=out, op=getattr(MPI, name), algorithm=algorithm)()
        agreed(comm, out, result)
        assert bits(x) == bits(mine[comm.rank])
    Allreduce(comm, x, op=getattr(MPI, name), algorithm=algorithm, chunks=3)()
    agreed(comm, x, result)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
def test_one_nan_anywhere_from_any_rank(comm, algorithm):
    """In every position of a short array, at the ends and the middle of a long one, and alone."""
    for op, n in ((MPI.MAX, 1), (MPI.MIN, 33), (MPI.MAX, 5000), (MPI.SUM, 33)):
        x = np.empty(n)
        plan = Allreduce(comm, x, op=op, algorithm=algorithm)
        for where in range(comm.size):
            x[:] = 2.0
            at = (
                np.arange(n) % comm.size == where
                if n < 100
                else np.array([0, n // 2 + where, n - 1])
            )
            if comm.rank == where:
                x[at] = -np.nan
            plan()
            expected = np.full(n, 2.0 if op != MPI.SUM else 2.0 * comm.size)
            expected[at] = np.nan
            assert x.tobytes() == expected.tobytes()


def test_auto_gives_the_same_in_all_calls(comm):
    for name, n in (("MAX", 3), ("SUM", 4001)):
        mine = terms(comm.size, n, np.dtype(float))
        result, x = rule(name, mine).tobytes(), np.empty(n)
        plan = Allreduce(comm, x, op=getattr(MPI, name))
        for _ in range(14):  # the race, and some calls after it
            x[:] = mine[comm.rank]
            plan()
            assert x.tobytes() == result
        assert allreduce(comm, mine[comm.rank], op=getattr(MPI, name)).tobytes() == result


@pytest.mark.parametrize("where", ["window", "foreign"])
@pytest.mark.parametrize("small", [True, False])
def test_one_rule_in_all_kinds_of_memory(comm, monkeypatch, where, small):
    monkeypatch.setattr(shared, "_SMALL", dict.fromkeys((True, False), 10**9 if small else -1))
    monkeypatch.setattr(shared, "_PIECES", 3000)
    channel, n = Channel.of(comm), 1003
    if comm.size == 1:
        return  # no memory is shared
    for name, code in (
        ("MAX", "d"),
        ("MIN", "f"),
        ("SUM", "e"),
        ("PROD", "D"),
        ("LXOR", "?"),
        ("MIN", "g"),
    ):
        mine = terms(comm.size, n, np.dtype(code))
        x = channel.node.zeros((n,), code) if where == "window" else np.empty(n, code)
        x[:] = mine[comm.rank]
        SharedReduction(Operands(channel, x, x, getattr(MPI, name)))()
        agreed(comm, x, rule(name, mine))


@pytest.mark.parametrize("layout", ["strided", "F", "reversed"])
def test_one_rule_for_any_layout(comm, layout):
    for name in ("MIN", "SUM"):
        mine = [a.reshape(9, 7) for a in terms(comm.size, 63, np.dtype("f"))]
        memory = np.empty((18, 14), "f")
        x = {
            "strided": memory[::2, ::2],
            "F": memory[:9, :7].copy(order="F"),
            "reversed": memory[:9, 6::-1],
        }[layout]
        x[:] = mine[comm.rank]
        Allreduce(comm, x, op=getattr(MPI, name), algorithm="native")()
        agreed(comm, x.copy(), rule(name, mine))


@pytest.mark.parametrize("algorithm", ["direct", "ring"])
def test_one_rule_for_halves(comm, algorithm):
    for name, code in (
        ("MAX", "d"),
        ("MIN", "e"),
        ("SUM", "F"),
        ("PROD", "f"),
        ("LAND", "q"),
        ("MAX", "g"),
    ):
        mine = terms(comm.size, 107, np.dtype(code))
        x = mine[comm.rank].copy()
        half = ReduceScatter(comm, x, op=getattr(MPI, name), algorithm=algorithm)
        half()
        assert bits(x[half.owned]) == bits(rule(name, mine)[half.owned])


def test_integers_wrap_around(comm):
    for algorithm in ("native", "twoshot", "shared"):
        for code, op, term in (
            ("b", MPI.SUM, 100),
            ("B", MPI.SUM, 200),
            ("q", MPI.PROD, 2**40 + 1),
            ("I", MPI.SUM, 2**31),
        ):
            mine = np.full(9, term, code)
            x = mine.copy()
            Allreduce(comm, x, op=op, algorithm=algorithm)()
            assert (x == reduce(np.add if op == MPI.SUM else np.multiply, [mine] * comm.size)).all()


@pytest.mark.parametrize(
    ("code", "op", "message"),
    [
        ("?", MPI.SUM, "not define this operation for bool, only LAND, LOR, LXOR: use another"),
        ("?", MPI.BAND, "for bool"),
        ("d", MPI.LAND, "not define this operation for float64, only SUM, PROD, MIN, MAX"),
        ("d", MPI.BXOR, "for float64"),
        ("D", MPI.MIN, "for complex128, only SUM, PROD"),
        ("d", MPI.MAXLOC, "for float64"),
        ("i", MPI.MINLOC, "for int32"),
        ("i", MPI.REPLACE, "for int32"),
        ("i", MPI.NO_OP, "for int32"),
    ],
)
def test_operations_that_are_not_defined(comm, code, op, message):
    for make in (Allreduce, ReduceScatter, allreduce):
        with pytest.raises(ConfigError, match=message):
            make(comm, np.zeros(4, code), op=op)


# -- operations of the user

PRIME = 10007


class Products:
    """`unit` numbers are a matrix or, where operands may swap, a polynomial modulo x^unit - 1."""

    def __init__(self, unit, commute):
        self.unit, self.commute, self.wrong = unit, commute, []
        self.op = MPI.Op.Create(self, commute=commute)

    def __call__(self, a, b, datatype):
        if (
            len(a) != len(b)
            or len(a) % (8 * self.unit)
            or datatype.Get_size() != 8 * self.unit
            or not len(a)
        ):
            self.wrong.append((len(a), datatype.Get_size()))
            return
        x, y = np.frombuffer(a, np.int64), np.frombuffer(b, np.int64)
        y[:] = self.product(x, y)

    def product(self, x, y):
        if not self.commute:
            side = round(self.unit**0.5)
            x, y = (z.reshape(-1, side, side) for z in (x, y))
            return (x @ y % PRIME).ravel()
        x, y = (z.reshape(-1, self.unit) for z in (x, y))
        return (
            sum(x[:, i : i + 1] * np.roll(y, i, axis=1) for i in range(self.unit)).ravel() % PRIME
        )

    def check(self, comm, groups, run):
        mine = [
            np.random.default_rng([groups, rank]).integers(0, PRIME, groups * self.unit)
            for rank in range(comm.size)
        ]
        result = reduce(self.product, mine)
        run(mine[comm.rank].copy(), result)
        assert not self.wrong


def cut_often(monkeypatch):
    for module in (messages, native):
        monkeypatch.setattr(module, "LIMIT", 16)
    monkeypatch.setattr(shared, "_SMALL", dict.fromkeys((True, False), 300))
    monkeypatch.setattr(shared, "_PIECES", 1000)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "auto"])
@pytest.mark.parametrize(("unit", "commute"), [(9, False), (7, True)])
def test_groups_are_never_cut(comm, monkeypatch, algorithm, unit, commute):
    cut_often(monkeypatch)
    if not commute and algorithm not in (*IN_RANK_ORDER, "auto"):
        return
    products = Products(unit, commute)

    def run(mine, result):
        x, out = mine.copy(), np.empty_like(mine)
        for target, plan in (
            (x, Allreduce(comm, x, op=products.op, algorithm=algorithm, group=unit, chunks=3)),
            (out, Allreduce(comm, mine, op=products.op, algorithm=algorithm, group=unit, out=out)),
        ):
            plan()
            np.testing.assert_array_equal(target, result)

    for groups in (1, 123):
        products.check(comm, groups, run)
    products.op.Free()


def test_groups_in_halves_in_any_layout_and_in_the_function(comm):
    products = Products(4, False)

    def scatter(mine, result):
        x = mine.copy()
        half = ReduceScatter(comm, x, op=products.op, group=4)
        half()
        assert half.owned.start % 4 == 0
        np.testing.assert_array_equal(x[half.owned], result[half.owned])

    def layouts(mine, result):
        x = np.asfortranarray(mine.reshape(-1, 2, 2))
        Allreduce(comm, x, op=products.op, algorithm="oneshot", group=4)()
        np.testing.assert_array_equal(x.ravel(), result)
        np.testing.assert_array_equal(allreduce(comm, mine, op=products.op, group=4), result)

    for groups in (0, 1, 11):
        products.check(comm, groups, scatter)
        products.check(comm, groups, layouts)
    products.op.Free()


@pytest.mark.parametrize("make", [Allreduce, ReduceScatter, allreduce])
@pytest.mark.parametrize(
    ("n", "group"), [(10, 4), (10, 0), (10, -2), (10, 2.0), (10, True), (2, 4)]
)
def test_numbers_that_are_no_whole_groups(comm, make, n, group):
    with pytest.raises(
        ConfigError,
        match=rf"{n} numbers cannot be cut into groups of {group}|group={group} must be",
    ):
        make(comm, np.zeros(n), group=group)


@pytest.mark.mpi(min_size=2)
def test_cuts_must_not_divide_groups(comm):
    with pytest.raises(ConfigError, match="multiples of group=4"):
        ReduceScatter(comm, np.zeros(8), cuts=[0, *[6] * (comm.size - 1), 8], group=4)


@pytest.mark.mpi(min_size=2)
def test_groups_that_differ_between_ranks(comm):
    for make in (Allreduce, ReduceScatter):
        with pytest.raises(ConfigError, match="must be the same on all ranks"):
            make(comm, np.zeros(12), group=2 if comm.rank else 3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ranks_agree_even_if_an_operation_does_not_quite_commute(comm, algorithm):
    """As operations that round: both partners of an exchange take the lower rank's first."""

    def weighted(a, b, datatype):
        x, y = np.frombuffer(a), np.frombuffer(b)
        y[:] = 0.3 * x + 0.7 * y

    op = MPI.Op.Create(weighted, commute=True)
    if algorithm != "native" and algorithm in possible(Channel.of(comm), op):  # MPI need not care
        x = np.random.default_rng(comm.rank).normal(size=57)
        Allreduce(comm, x, op=op, algorithm=algorithm)()
        assert len(set(comm.allgather(x.tobytes()))) == 1
    op.Free()
