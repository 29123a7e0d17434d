import gc
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, HpckitError
from hpckit.machine import node_memory as shared
from hpckit.machine.node_memory import NodeMemory

pytestmark = [pytest.mark.mpi, pytest.mark.usefixtures("alone")]


@pytest.mark.parametrize("ndim", [1, 2, 3, 4])
def test_the_blocks_cover_the_grid_once(comm, ndim):
    shape = (9, 7, 6, 5)[:ndim]
    grid = Grid(comm, shape)
    count = np.zeros(shape, np.int64)
    count[tuple(map(slice, grid.start, grid.stop))] += 1
    comm.Allreduce(MPI.IN_PLACE, count)
    assert (count == 1).all()
    assert math.prod(grid.process_shape) == grid.size == comm.size
    assert grid.rank == comm.rank
    assert [grid.box(rank) for rank in range(comm.size)] == comm.allgather((grid.start, grid.stop))


def test_coordinates_are_mpis(comm):
    grid = Grid(comm, (8, 8, 8), periodic=(True, False, True))
    assert grid.coords == tuple(grid.comm.coords)
    assert grid.process_shape == tuple(grid.comm.dims)
    assert grid.comm is not comm


@pytest.mark.parametrize("periodic", [False, True])
def test_neighbors_point_at_each_other(comm, periodic):
    grid = Grid(comm, (8, 8), periodic=periodic)
    for offset in np.ndindex(3, 3):
        step = tuple(o - 1 for o in offset)
        there = grid.comm.allgather(grid.neighbor(step))
        back = grid.comm.allgather(grid.neighbor([-s for s in step]))
        if there[grid.rank] == MPI.PROC_NULL:
            assert not periodic
        else:
            assert back[there[grid.rank]] == grid.rank
    assert grid.neighbor((0, 0)) == grid.rank
    for d in range(2):
        step = [int(d == e) for e in range(2)]
        assert grid.neighbor(step) == grid.comm.Shift(d, 1)[1]


def test_arrays_have_ghosts_where_asked(comm):
    grid = Grid(comm, (12, 8), width=((1, 2), (0, 3)))
    u = grid.zeros("f4", order="F")
    assert (
        u.shape
        == grid.local_shape
        == tuple(n + w for n, w in zip(grid.owned_shape(), (3, 3), strict=True))
    )
    assert u.flags.f_contiguous and u.dtype == np.float32 and not u.any()
    u[grid.owned] = 1
    assert u.sum() == math.prod(grid.owned_shape())
    assert u[1:-2, :-3].all()


@pytest.mark.parametrize("periodic", [False, True])
def test_staggered_dimensions_own_one_more(comm, periodic):
    grid = Grid(comm, (8, 8), periodic=(periodic, False), width=1)
    assert grid.global_shape((1, 0)) == (8 if periodic else 9, 8)
    owned = grid.owned_shape((1, 0))
    assert comm.allreduce(math.prod(owned)) == math.prod(grid.global_shape((1, 0)))
    assert grid.empty(stagger=(1, 0))[grid.owned].shape == owned
    assert grid.empty(stagger=(1, 0)).shape == tuple(n + 2 for n in owned)
    assert grid.global_shape(1) == (8 if periodic else 9, 9)


def test_structured_and_integer_dtypes(comm):
    grid = Grid(comm, (4, 4), width=0)
    assert grid.zeros([("a", "f8"), ("b", "i4")])["b"].shape == grid.owned_shape()
    assert grid.zeros(bool).dtype == bool


def test_it_prints_itself(comm):
    text = str(Grid(comm, (40, 30), periodic=(True, False), width=2))
    assert f"40 x 30 cells on {comm.size} rank" in text
    assert "2+2" in text and "yes, no" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": ()}, r"shape \(\) must have 1 to 4 dimensions"),
        ({"shape": (2,) * 5}, "1 to 4 dimensions"),
        ({"shape": (8, 0)}, "at least one cell"),
        ({"shape": (8.5, 2)}, "sequence of 1 to 4 ints"),
        ({"shape": 8}, "sequence of 1 to 4 ints"),
        ({"shape": (8, 8), "periodic": (True,)}, "1 entries, but the grid has 2 dimensions"),
        ({"shape": (8, 8), "width": -1}, "non-negative"),
        ({"shape": (8, 8), "width": ((1, 2, 3), 1)}, "non-negative"),
        ({"shape": (8, 8), "width": 1.5}, "width 1.5 must be one value, or one per dimension"),
        (
            {"shape": (8, 8), "process_shape": (5, 3)},
            r"grid \(5, 3\) needs 15 ranks, but the communicator has \d: use",
        ),
        ({"shape": (8, 8), "process_shape": (0, 3)}, "at least 1 in every dimension"),
        ({"shape": (8, 8), "process_shape": 4}, r"grid \(4, 4\) needs 16 ranks"),
    ],
)
def test_bad_arguments_are_one_clear_error(comm, arguments, message):
    with pytest.raises(ConfigError, match=message):
        Grid(comm, **arguments)


@pytest.mark.mpi(min_size=2)
def test_more_ranks_than_cells(comm):
    with pytest.raises(ConfigError, match=f"no process grid of {comm.size} ranks"):
        Grid(comm, (1,))
    with pytest.raises(ConfigError, match=f"into {comm.size} blocks, but it has only 1 cells"):
        Grid(comm, (1, 8), process_shape=(comm.size, 1))


@pytest.mark.mpi(min_size=2)
def test_ranks_that_disagree_are_named(comm):
    with pytest.raises(
        ConfigError, match=r"arguments of Grid must be the same on all ranks, but rank.*\(8, 9\)"
    ):
        Grid(comm, (8, 8 + (comm.rank == 1)))
    with pytest.raises(ConfigError, match=r"rank 1: shape \(8, 0\)"):
        Grid(comm, (8, 8 * (comm.rank != 1)))


@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    width=st.integers(0, 2),
    periodic=st.booleans(),
)
def test_any_grid_works_or_says_why(comm, shape, width, periodic):
    try:
        grid = Grid(comm, shape, width=width, periodic=periodic)
    except ConfigError as error:
        assert "no process grid" in str(error)  # noqa: PT017
        return
    assert comm.allreduce(grid.empty()[grid.owned].size) == math.prod(shape)


def test_shared_arrays_are_seen_by_the_whole_node(comm):
    grid = Grid(comm, (9, 7), width=1)
    u = grid.zeros("f4", shared=True)
    v = grid.empty("f8", stagger=1, order="F", shared=True)
    assert u.ctypes.data % 64 == v.ctypes.data % 64 == 0
    u[...], v[...] = comm.rank, -comm.rank
    comm.Barrier()
    peers = grid.shared_peers(u)
    assert list(peers) == list(range(comm.size))  # the tests run on one node
    for rank, theirs in peers.items():
        start, stop = grid.box(rank)
        assert theirs.shape == tuple(b - a + 2 for a, b in zip(start, stop, strict=True))
        assert theirs.dtype == np.float32 and (theirs == rank).all()
    assert all((theirs == -rank).all() for rank, theirs in grid.shared_peers(v[...]).items())
    assert grid.shared_peers(u[1:]) is None
    assert grid.shared_peers(grid.zeros()) is None
    comm.Barrier()


def test_writes_arrive_in_the_others_views(comm):
    grid = Grid(comm, (8, 8))
    u = grid.zeros(shared=True)
    next_rank = (comm.rank + 1) % comm.size
    grid.shared_peers(u)[next_rank][0, 0] = comm.rank + 1
    comm.Barrier()
    assert u[0, 0] == (comm.rank - 1) % comm.size + 1


def mapped() -> int:
    """Pieces of shared memory that this process sees."""
    return Path("/proc/self/maps").read_text().count("/memfd:hpckit-shared")


def test_each_rank_gives_memory_back_as_soon_as_it_needs_it_no_more(comm):
    memory, before = Grid(comm, (8, 8)).node_memory, mapped()
    first, second = memory.zeros((4,)), memory.zeros((4,))
    assert mapped() == before + 2
    seen = memory.peers(second)
    first[...], second[...] = 1, 2
    comm.Barrier()
    del first, second
    if comm.rank == 0:
        del seen  # the other ranks still look at the second one
    comm.Barrier()
    assert mapped() == before + (comm.rank > 0)
    if comm.rank > 0:
        assert all((theirs == 2).all() for theirs in seen.values())
    comm.Barrier()
    assert Grid(comm, (6, 6)).node_memory is memory
    assert memory.zeros((2,)).shape == (2,)


def test_shared_memory_outlives_its_grid_and_communicator(comm):
    gc.collect()
    part, before = comm.Split(0, comm.rank), mapped()
    grid = Grid(part, (8, 8))
    array = grid.zeros(shared=True)
    peers = grid.shared_peers(array)
    array[...] = comm.rank
    del grid, array
    part.Free()
    Grid(comm, (8, 8))
    comm.Barrier()
    assert [theirs.flat[0] for theirs in peers.values()] == [*range(comm.size)]
    comm.Barrier()
    del peers
    gc.collect()
    assert mapped() == before


def test_shared_memory_that_is_not_there_is_refused(comm):
    grid = Grid(comm, (2**46,), width=0)
    with pytest.raises(
        HpckitError,
        match=r"shared arrays of .* TB do not fit into this node's memory, of which .* free",
    ):
        grid.zeros(shared=True)


def test_what_cannot_be_shared_is_refused_on_all_ranks(comm):
    grid, last = Grid(comm, (8, 8)), comm.rank == comm.size - 1
    for dtype, message in ((object, "Python objects"), ("nonsense", "not understood|Error")):
        with pytest.raises(HpckitError, match=message):
            grid.zeros(dtype if last else float, shared=True)
    assert comm.allreduce(1) == comm.size


@pytest.mark.parametrize("broken", [{"_nameless"}, {"_nameless", "_named"}])
def test_where_processes_cannot_open_each_others_files(comm, monkeypatch, broken):
    def refuses(nbytes):
        raise PermissionError

    for name in broken:
        monkeypatch.setattr(shared, name, refuses)
    memory = NodeMemory(comm)
    if "_named" in broken:
        with pytest.raises(HpckitError, match=r"cannot share memory.*shared=False"):
            memory.zeros((4,))
        return
    array = memory.zeros((4,))
    array[...] = comm.rank
    comm.Barrier()
    assert [theirs[0] for theirs in memory.peers(array).values()] == [*range(comm.size)]
    comm.Barrier()


def test_grids_come_and_go(comm):
    """Communicators are a limited resource: about 2,000 on MPICH."""
    for _ in range(50):
        Grid(comm, (8, 8))
    gc.collect()
    assert Grid(comm, (8, 8)).comm.size == comm.size
