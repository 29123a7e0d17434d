import pytest

from hpckit.apps.halo.config import Config
from hpckit.apps.halo.estimate import estimate, memory
from hpckit.errors import ConfigError
from hpckit.pde.heat import HeatEquation
from hpckit.program import memory as left


@pytest.mark.mpi
def test_what_does_not_fit_is_refused_by_all_ranks(comm):
    left.check(comm, 1e3, "--shape")
    need = 1e18 if comm.rank == comm.size - 1 else 1.0
    with pytest.raises(
        ConfigError, match=r"this run needs about 1 EB on a node .* left: use more nodes, .*--shape"
    ):
        left.check(comm, need, "--shape")


def test_pictures_of_a_line_are_counted_where_there_are_some(monkeypatch):
    shape = (1000,)
    plain = memory(Config(shape=shape, pictures=False), 2)
    assert (memory(Config(shape=shape), 2) == plain).all()  # heat draws none
    monkeypatch.setattr(HeatEquation, "drawn_from", 1)
    fixed, per_cell = HeatEquation.cost(Config().options, False).drawing
    drawing = memory(Config(shape=shape), 2)[0] - plain[0]
    assert abs(drawing - fixed - 1000 * per_cell) < 0.1 * fixed


def test_memory_grows_with_the_cells_and_rank_0_draws():
    small, large = memory(Config(shape=(64, 64, 64)), 2), memory(Config(shape=(512, 512, 512)), 2)
    assert small[0] > small[1] + 40e6
    assert large[1] == pytest.approx(4 * 514 * 514 * 258 * 8, rel=0.1)
    alone = memory(Config(shape=(512, 512, 512), snapshots=0), 2)
    assert alone[0] == alone[1]  # neither files nor pictures


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shape": (2**62, 2**62)}, "shape .*e\\+37 cells"),
        ({"refine": 2**40}, "refined 1099511627776 times"),
        ({"snapshots": 10**18}, "snapshots 1000000000000000000"),
        ({"bounds": (5.0,)}, r"bounds \[5.0\] must be"),
    ],
)
def test_what_no_computer_holds_is_refused_at_once(wrong, message):
    with pytest.raises(ConfigError, match=message):
        estimate(Config(**wrong), 2)
