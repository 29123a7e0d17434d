"""Measures the steps of the machine's model: some milliseconds each, on a rank or a pair."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from mpi4py import MPI

from hpckit import native
from hpckit.comm.pack import Move, Moves
from hpckit.comm.tables import EXCHANGE, NEIGHBOUR
from hpckit.errors import HpckitError, meet
from hpckit.log import get_logger
from hpckit.machine.lifetime import free_with
from hpckit.machine.model import Model, partner, place
from hpckit.machine.node_memory import NodeMemory
from hpckit.machine.steps import Table

Step = Callable[[], object]
Case = Callable[[int, int, int], tuple[Step, Step]]
"""bytes, row, stride -> what comes before, such as writing what is sent; what is timed"""

MESSAGES = tuple(64 * 4**k for k in range(9))
SIZES = tuple(512 * 8**k for k in range(5))
ROWS = (8, 32, 256, 4096)
AREA = 1 << 23  # bytes that strided data may span
TIME = 7e-4  # seconds a point may take, after its first six samples
LIMIT = 0.06  # seconds a table may take; quiet machines need a third of it
_COUNTERS = 256


def with_steps(comm: MPI.Intracomm, node: NodeMemory) -> Model:
    """The model of a communicator with its steps, from a file or measured now (collective).

    Measuring takes about a tenth of a second: two ranks work, the others sleep.
    """
    model = Model.of(comm, node)
    if not model.steps:
        steps = _measure(comm, model.node_of)
        model.learn_steps(steps, keep=comm.rank == 0 and _is_whole(steps))
    return model


def _measure(comm: MPI.Intracomm, node_of: Sequence[int]) -> dict[str, Table]:
    """Rank 0 alone, then with one of its node, then with one of another; the others sleep."""
    native.load("hpckit.comm.moves")  # compile before the clock runs
    tables = _copies() if comm.rank == 0 else {}
    for same_node in (True, False):
        other = partner(node_of, same_node)
        takes_part = other is not None and comm.rank in (0, other)
        pair = MPI.Intracomm(comm.Split(0 if takes_part else MPI.UNDEFINED, comm.rank))
        if pair != MPI.COMM_NULL:
            for step, table in _messages(pair).items():
                tables[f"{step}, {place(same_node)}"] = table
            if same_node:
                tables |= _node_memory(pair)
            pair.Free()
        meet(comm)
    return comm.bcast(tables)


def _copies() -> dict[str, Table]:
    """`pack` and `unpack`: the pack kernels on this rank alone."""
    flat = _bytes(SIZES[-1])
    area = _bytes(AREA)

    def pack(nbytes: int, row: int, stride: int) -> tuple[Step, Step]:
        rows = _rows(area, nbytes, row, stride)
        return _write(rows), _copy(rows, _rows(flat, nbytes, row, row))

    def unpack(nbytes: int, row: int, stride: int) -> tuple[Step, Step]:
        packed = _rows(flat, nbytes, row, row)
        return _write(packed), _copy(packed, _rows(area, nbytes, row, stride))

    return {
        "pack": times(MPI.COMM_SELF, _layouts(), pack),
        "unpack": times(MPI.COMM_SELF, _layouts(), unpack),
    }


def _messages(pair: MPI.Intracomm) -> dict[str, Table]:
    """`message` and `datatype`: a message each way between two ranks, by persistent requests."""
    send = _bytes(AREA)
    receive = _bytes(AREA)

    def message(nbytes: int, row: int, stride: int) -> tuple[Step, Step]:
        del row, stride
        ends = [send, nbytes, MPI.BYTE], [receive, nbytes, MPI.BYTE]
        return _write(send[:nbytes]), exchange(pair, *ends)

    def datatype(nbytes: int, row: int, stride: int) -> tuple[Step, Step]:
        rows = MPI.DOUBLE.Create_hvector(nbytes // row, row // 8, stride).Commit()
        step = exchange(pair, [send, 1, rows], [receive, 1, rows])
        rows.Free()  # MPI keeps it for the requests
        return _write(_rows(send, nbytes, row, stride)), step

    contiguous = [(n, 1, 1) for n in MESSAGES]
    return {
        "message": times(pair, contiguous, message),
        "datatype": times(pair, _layouts(), datatype),
    }


def _node_memory(pair: MPI.Intracomm) -> dict[str, Table]:
    """`flag`, `shared` and `direct`, of two ranks of a node; none where memory is too small."""
    memory = NodeMemory(pair)
    try:
        own = memory.zeros((_COUNTERS + AREA,), np.uint8)
    except HpckitError as error:
        get_logger(__name__).warning("methods through shared memory are not measured: %s", error)
        return {}
    peers = memory.peers(own) or {}
    mine, theirs = peers[pair.rank], peers[1 - pair.rank]
    pair.Barrier()
    tables = {"flag": {1: [(0, best(pair, lambda: None, _flags(mine, theirs)))]}} | _reads(
        pair, mine, theirs
    )
    pair.Barrier()
    return tables


def _reads(pair: MPI.Intracomm, mine: np.ndarray, theirs: np.ndarray) -> dict[str, Table]:
    target = _bytes(AREA)

    def read(nbytes: int, row: int, stride: int, step: int) -> tuple[Step, Step]:
        written, seen = (_rows(memory[_COUNTERS:], nbytes, row, step) for memory in (mine, theirs))
        return _write(written), _copy(seen, _rows(target, nbytes, row, stride))

    return {
        "shared": times(
            pair, _layouts(), lambda nbytes, row, stride: read(nbytes, row, stride, row)
        ),
        "direct": times(
            pair, _layouts(), lambda nbytes, row, stride: read(nbytes, row, stride, stride)
        ),
    }


def _flags(mine: np.ndarray, theirs: np.ndarray) -> Step:
    """One exchange by the counters of `hpckit.comm.moves`, without data."""
    kernels = native.load("hpckit.comm.moves")
    ours, other = native.address(mine), native.address(theirs)
    neighbour = np.array([(other, other + 128, 0, 0, 0)], NEIGHBOUR)
    table = np.zeros(1, EXCHANGE)
    table["posted"] = ours
    table["finished"] = ours + 128
    table["polls"] = table["eager"] = 1000
    table["neighbours"] = 1
    table["table"] = native.address(neighbour)
    table["lag"] = 2

    def step(_needed: object = neighbour) -> None:
        for part in (kernels.post, kernels.collect):
            while part(native.address(table)):
                pass

    return step


def times(pair: MPI.Intracomm, points: Sequence[tuple[int, int, int]], case: Case) -> Table:
    """As many of the points, small ones first, as the time allows on a busy machine."""
    found: Table = {}
    end = time.perf_counter() + LIMIT
    for nbytes, row, stride in points:
        if found and pair.allreduce(time.perf_counter() > end, MPI.LOR):
            break
        seconds = best(pair, *case(nbytes, row, stride))
        found.setdefault(row, []).append((nbytes, seconds))
    return {row: _rising(points) for row, points in found.items()}


def _rising(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """More bytes never take less time: where they seem to, the smaller point was disturbed."""
    return [
        (nbytes, min(seconds for _, seconds in points[i:])) for i, (nbytes, _) in enumerate(points)
    ]


def best(pair: MPI.Intracomm, prepare: Step, step: Step) -> float:
    """Smallest time of `step` after `prepare`; in each sample the slower rank counts."""

    def sample() -> float:
        prepare()
        pair.Barrier()
        begin = time.perf_counter()
        step()
        return time.perf_counter() - begin

    sample()
    first = pair.allreduce(sample(), MPI.MAX)
    samples = np.array([sample() for _ in range(int(np.clip(TIME / first, 4, 30)))])
    pair.Allreduce(MPI.IN_PLACE, samples, MPI.MAX)
    return min(first, float(samples.min()))


def _layouts() -> list[tuple[int, int, int]]:
    """(bytes, row, stride), the strides off the powers of two that make cache lines collide."""
    strides = {row: max(2 * row, 512) + 64 for row in ROWS}
    return [
        (n, row, s)
        for n in SIZES
        for row, s in strides.items()
        if n >= row and n // row * s <= AREA
    ]


def _is_whole(tables: dict[str, Table]) -> bool:
    """Whether no table ended early, or is missing though two ranks of a node were measured."""
    points = {"message": len(MESSAGES), "flag": 1}
    return ("flag" in tables or "message, same node" not in tables) and all(
        sum(map(len, table.values())) == points.get(step.partition(",")[0], len(_layouts()))
        for step, table in tables.items()
    )


def _write(array: np.ndarray) -> Step:
    return partial(array.fill, 1)


def _bytes(n: int) -> np.ndarray:
    return np.ones(n, np.uint8)


def _rows(memory: np.ndarray, nbytes: int, row: int, stride: int) -> np.ndarray:
    """The bytes at the start of `memory` as (rows, row), `stride` bytes from row to row."""
    return np.lib.stride_tricks.as_strided(memory, (nbytes // row, row), (stride, 1))


def _copy(source: np.ndarray, target: np.ndarray) -> Step:
    """The pack kernels' copy between two (rows, row) views of bytes."""
    (count, row), begin, end = source.shape, native.address(source), native.address(target)
    return Moves([Move((count,), row, begin, source.strides[:1], end, target.strides[:1])]).run


def exchange(pair: MPI.Intracomm, send: list, receive: list) -> Step:
    """A message each way, by persistent requests."""
    other = 1 - pair.rank
    requests = [pair.Recv_init(receive, other), pair.Send_init(send, other)]

    def step() -> None:
        MPI.Prequest.Startall(requests)
        MPI.Prequest.Waitall(requests)

    free_with(step, *requests)
    return step
