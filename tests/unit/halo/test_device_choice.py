"""The choice among methods for fields on a device: by model and race, alike on all ranks."""

from __future__ import annotations

import pytest

import hpckit
from hpckit.comm.grid import Grid
from hpckit.comm.stand_in import StandIn
from hpckit.errors import HpckitError
from hpckit.halo import Halo
from hpckit.names import DEVICE_HALO_METHODS

ROUNDS = 8 * 5 * 5 + 1  # of a race at most: rounds, methods, turns; and the call that ends it


@pytest.fixture
def device(comm) -> StandIn:
    return hpckit.device(comm, "stand-in")


def chosen(comm, device: StandIn, **options: object) -> Halo:
    """A halo that has made its choice, its ghosts filled."""
    grid = Grid(comm, (6 * comm.size, 5), periodic=True, process_shape=(comm.size, 1))
    field = grid.zeros(device=device)
    field[grid.owned].set(comm.rank + 1)
    halo = Halo(grid, fields=[field], **options)
    for _ in range(ROUNDS):
        halo.exchange(field)
    halo.synchronize()
    assert (field.get()[0, 1:-1] == (comm.rank - 1) % comm.size + 1).all()
    return halo


@pytest.mark.mpi
def test_all_ranks_choose_the_same_and_say_why(comm, device):
    halo = chosen(comm, device)
    assert halo.method in DEVICE_HALO_METHODS
    assert len(set(comm.allgather(halo.method))) == 1
    text = halo.explain()
    assert f"method {halo.method}: MPI gets" in text
    assert "predicted" in text
    assert "chosen" in text


@pytest.mark.mpi
def test_no_address_of_a_device_is_given_to_mpi_where_nobody_has_tried_that(comm, device):
    assert "\ndevice " not in chosen(comm, device).explain()


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("method", "pointers"), [("peer", "no"), ("staged", "pinned"), ("oneshot", "mapped")]
)
def test_a_method_may_be_named(comm, device, method, pointers):
    halo = chosen(comm, device, method=method)
    assert halo.method == method
    assert f"method {method}: MPI gets {pointers} pointers" in halo.explain()


@pytest.mark.mpi(min_size=2)
def test_what_a_device_refuses_is_left_out(comm, device, monkeypatch):
    """Devices of a node that cannot reach each other, say."""

    def refuse(*_: object) -> None:
        raise HpckitError("no peer access")

    monkeypatch.setattr(StandIn, "open", refuse)
    assert chosen(comm, device).method != "peer"
    with pytest.raises(HpckitError, match="no peer access"):
        chosen(comm, device, method="peer")


@pytest.mark.mpi(min_size=3)
def test_neighbours_on_other_nodes_take_part(comm, device):
    """Two ranks a node, as far as the halo can see; the last one may be alone."""
    from hpckit.machine.node_memory import NodeMemory

    grid = Grid(comm, (4 * comm.size, 5), periodic=True, process_shape=(comm.size, 1))
    node = grid.comm.Split(grid.rank // 2, grid.rank)
    grid.node_memory = NodeMemory(node)
    grid.node_memory.ranks = node.allgather(grid.rank)
    field = grid.zeros(device=device)
    halo = Halo(grid, fields=[field], method="peer")
    for number in range(6):
        field[grid.owned].set(grid.rank + 100 * number)
        if number % 2:
            halo.exchange(field)
        else:
            halo.start(field)
            halo.wait()
        halo.synchronize()
        below, above = (grid.neighbor((step, 0)) + 100 * number for step in (-1, 1))
        values = field.get()
        assert (values[0, 1:-1] == below).all()
        assert (values[-1, 1:-1] == above).all()
    assert "MPI gets pinned pointers" in halo.explain()


AWARE = """
from mpi4py import MPI
import hpckit
from hpckit.comm import gpu_awareness
gpu_awareness.known = lambda device: {aware}
device = hpckit.device(MPI.COMM_WORLD, "stand-in")
grid = hpckit.Grid(MPI.COMM_WORLD, (16, 16), periodic=True)
field = grid.zeros(device=device)
halo = hpckit.Halo(grid, fields=[field])
for _ in range(300):
    halo.exchange(field)
halo.synchronize()
if grid.rank == 0:
    print(halo.explain())
"""


@pytest.mark.parametrize("aware", [True, False])
def test_where_mpi_takes_addresses_of_devices_that_is_a_candidate(tmp_path, mpirun, aware):
    (tmp_path / "aware.py").write_text(AWARE.format(aware=aware))
    job = mpirun(2, tmp_path / "aware.py", HPCKIT_STAND_IN="readable")
    assert job.returncode == 0, job.stdout
    assert ("\ndevice " in job.stdout) == aware, job.stdout
