"""What is dropped between start and wait: its memory is nobody else's until MPI is done with it."""

import gc
import weakref

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives import (
    Allgather,
    Allreduce,
    Bcast,
    ReduceScatter,
    Reproducible,
    ring_map,
)
from hpckit.collectives.algorithms import ALGORITHMS
from hpckit.errors import HpckitError
from hpckit.lossy import LocalUpdates, Quantised, TopK
from hpckit.watch import Watch

N = 20_000  # elements: too many to be sent before they are awaited

PLANS = {
    **{name: lambda comm, x, name=name: Allreduce(comm, x, algorithm=name) for name in ALGORITHMS},
    "chunks": lambda comm, x: Allreduce(comm, x, algorithm="ring", chunks=4),
    "strided": lambda comm, x: Allreduce(comm, x.reshape(-1, 4).T[::2], algorithm="twoshot"),
    "out": lambda comm, x: Allreduce(comm, x, out=np.empty_like(x), algorithm="oneshot"),
    "fp16": lambda comm, x: Allreduce(comm, x, algorithm=Quantised("fp16")),
    "topk": lambda comm, x: Allreduce(comm, x, algorithm=TopK(0.5)),
    "reproducible": lambda comm, x: Allreduce(comm, x, algorithm=Reproducible()),
    "reduce-scatter": ReduceScatter,
    "allgather": Allgather,
    "bcast": Bcast,
}


@pytest.mark.parametrize("kind", PLANS)
def test_dropped_by_all_ranks(comm, kind):
    """Nothing is written into what its memory might have become, and the ranks can go on."""
    x = np.full(N, comm.rank + 1.0)
    plan = PLANS[kind](comm, x)
    if comm.rank == comm.size - 1:
        comm.Barrier()  # the others have dropped theirs
    plan.start()
    del plan, x
    gc.collect()
    others = [np.full(N, -1.0) for _ in range(20)]
    if comm.rank < comm.size - 1:
        comm.Barrier()
    comm.Barrier()
    y = np.ones(5)
    Allreduce(comm, y, algorithm="ring")()
    assert (y == comm.size).all()
    assert all((other == -1).all() for other in others)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", [*ALGORITHMS, "chunks", "fp16", "bcast"])
def test_what_nobody_received_is_not_received_by_a_later_plan(comm, kind):
    """Rank 0 may have sent all of its messages when the others drop the plan that would get them.

    MPICH gives the numbers of communicators that were freed to new ones.
    """
    for _ in range(3):
        own = comm.Dup()
        plan = PLANS[kind](own, np.full(100, 7.0))
        plan.start()
        comm.Barrier()
        for _ in range(100 if comm.rank == 0 else 0):
            plan.poll()
        comm.Barrier()
        del plan
        own.Free()
        gc.collect()
        for _ in range(4):
            later = comm.Dup()
            x = np.full(100, 1.0)
            PLANS[kind](later, x)()
            assert (x == (1 if kind == "bcast" else comm.size)).all()
            later.Free()
            gc.collect()


@pytest.mark.parametrize("kind", PLANS)
def test_what_is_complete_is_free_with_the_next_plan(comm, kind):
    x = np.full(N, 1.0)
    plan = PLANS[kind](comm, x)
    plan()
    plan.start()
    plan.wait()
    gone = weakref.ref(x)
    del plan, x
    gc.collect()
    Bcast(comm, np.ones(2))
    assert gone() is None


def test_no_active_request_is_freed(comm):
    """Rank 0 drops a plan for whose messages the others come later: theirs completes."""
    x = np.full(N, comm.rank + 1.0)
    plan = Allreduce(comm, x, algorithm="oneshot")
    if comm.rank == 0:
        plan.start()
        del plan, x
        gc.collect()
    comm.Barrier()
    if comm.rank:
        plan()
        assert (x == comm.size * (comm.size + 1) / 2).all()
    comm.Barrier()


def test_the_communicator_may_be_freed_in_flight(comm):
    for kind in ("ring", "native", "shared", "chunks"):
        own = comm.Dup()
        x = np.full(N, comm.rank + 1.0)
        plan = PLANS[kind](own, x)
        plan.start()
        own.Free()
        gc.collect()
        y = np.ones(3)
        Allreduce(comm, y, algorithm="twoshot")()  # frees what it can
        plan.wait()
        assert (x == comm.size * (comm.size + 1) / 2).all()
        x[:] = 1
        plan()
        assert (x == comm.size).all()


def test_the_array_may_be_forgotten(comm):
    for kind in ("ring", "native", "shared", "strided"):
        x = np.full(N, comm.rank + 1.0)
        plan = PLANS[kind](comm, x)
        plan.start()
        x = np.full(N, -1.0)
        plan.wait()
        assert (x == -1).all()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ring_map_that_is_interrupted(comm, error):
    """The blocks that are on their way go on into memory of their own."""

    def interrupted(block, rank):
        raise error

    for _ in range(3):
        with pytest.raises(error):
            ring_map(comm, np.full(N, 1.0), interrupted)
        others = [np.full(N, -1.0) for _ in range(5)]
        comm.Barrier()
        assert [
            block.sum() for block in ring_map(comm, np.full(N, 1.0), lambda block, _: block.copy())
        ] == [N] * comm.size
        assert all((other == -1).all() for other in others)


def test_local_updates_that_are_dropped(comm):
    for _ in range(3):
        outer = LocalUpdates(comm, np.zeros(N), tau=1)
        outer.step()
        del outer
        others = [np.full(N + 1, -1.0) for _ in range(5)]
        LocalUpdates(comm, np.zeros(3), tau=1).step()
        comm.Barrier()
        assert all((other == -1).all() for other in others)


def test_requests_of_the_users_collectives(comm):
    """Where they are watched, and dropped."""
    with Watch(comm) as watched:
        for _ in range(3):
            request = watched.Iallreduce(MPI.IN_PLACE, np.ones(N))
            del request
            others = [np.full(N, -1.0) for _ in range(5)]
            x = np.ones(3)
            watched.Iallreduce(MPI.IN_PLACE, x).Wait()
            assert (x == comm.size).all()
            assert all((other == -1).all() for other in others)
        requests = [watched.Iallreduce(MPI.IN_PLACE, np.ones(N)) for _ in range(3)]
        MPI.Request.Waitall(requests)
        del requests


@pytest.mark.parametrize(
    "kind", ["ring", "native", "shared", "strided", "chunks", "reduce-scatter", "bcast"]
)
def test_a_call_in_a_call(comm, kind):
    x = np.full(N, 1.0)
    plan = PLANS[kind](comm, x)
    plan.start()
    with pytest.raises(HpckitError, match=r"start\(\) twice without wait"):
        plan.start()
    with pytest.raises(HpckitError, match=r"a call between start\(\) and wait\(\)"):
        plan()
    plan.wait()
    plan()
    plan.start()
    plan.wait()


ENDS = """
import sys
import numpy as np
from mpi4py import MPI
from hpckit.collectives import Allreduce, Bcast, ReduceScatter, empty
from hpckit.lossy import Quantised

comm = MPI.COMM_WORLD

def add(a, b, _):
    y = np.frombuffer(b, float)
    y += np.frombuffer(a, float)

op = MPI.Op.Create(add, commute=True)
some = comm.rank == 0 or "all" in sys.argv
plan = None
ways = [(name, n) for name in ("native", "ring", "star", "shared") for n in (3, 50000)]
made = [Allreduce(comm, np.ones(n), algorithm=name) for name, n in ways]
made += [Allreduce(comm, np.ones(7), algorithm="native", op=op)]
made += [Allreduce(comm, np.ones(7), algorithm=Quantised("fp16"))]
made += [Bcast(comm, np.ones(50000), root=1), ReduceScatter(comm, np.ones(50000))]
for plan in made if some else ():
    plan.start()
if "drop" in sys.argv:
    del made, plan
if "error" in sys.argv and "all" in sys.argv:
    raise ValueError("in flight")
print("end", flush=True)
"""


@pytest.mark.parametrize("how", ["one", "one drop", "all drop", "all error"])
def test_the_end_of_the_program(mpirun, tmp_path, how):
    (tmp_path / "program.py").write_text(ENDS)
    job = mpirun(2, tmp_path / "program.py", *how.split(), timeout=500)
    assert job.returncode == ("error" in how), job.stdout
    assert job.stdout.count("end") == (0 if "error" in how else 2) or "error" in how, job.stdout
    for bad in ("egmentation", "Abort", "MPI_ABORT", "corrupt", "free()"):
        assert bad not in job.stdout
