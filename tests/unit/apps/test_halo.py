"""The halo program from within: right on any ranks, restarts, one clear error for bad input."""

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpckit.apps.halo.config import Config
from hpckit.apps.halo.estimate import estimate
from hpckit.apps.halo.job import main
from hpckit.apps.halo.layout import layout
from hpckit.apps.halo.schedule import marks, schedule
from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.pde import EQUATIONS, combined, heat, tsunami
from hpckit.pde.heat import Heat
from hpckit.pde.tsunami import Place, Source

SEA = tsunami.Options(
    source=Source(longitude=0.05, latitude=0.05, length=4, width=3),
    places=[Place("Town", 0.1, 0.1)],
)


PERIODIC = {"burgers": (40,), "combined": (41,), "gray_scott": (14, 15), "advection": (15, 14)}


def _case(kind: str, folder: Path) -> Config:
    """A small case of each kind; its input is written by the caller."""
    common = {"output": str(folder / kind), "pictures": False, "snapshots": 3, "steps": 12}
    if kind == "heat":
        return Config(shape=(13, 12, 11), **common)
    if kind in PERIODIC:
        options = {"combined": combined.Options(start="waves")}
        return Config(shape=PERIODIC[kind], equation=kind, periodic=True, **options, **common)
    bounds = (0.0, 0.2, 0.0, 0.2)
    relief = {"input": str(folder / "relief.npy"), "shape": (6, 7), "refine": 3, "bounds": bounds}
    return Config(equation=kind, tsunami=SEA, **relief, **common)


def _write_input(comm, folder: Path) -> None:
    if comm.rank == 0:
        rows, columns = np.mgrid[0:6, 0:7]
        np.save(folder / "relief.npy", -100.0 - 20 * rows + 30 * columns)
    comm.Barrier()


def _results(config: Config) -> dict[str, np.ndarray]:
    with h5py.File(Path(config.output) / f"{config.equation}.vtkhdf") as file:
        return {name: data[:] for name, data in file["VTKHDF/CellData"].items()}


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.mpi
@pytest.mark.parametrize("kind", EQUATIONS)
def test_any_ranks_give_what_one_gives(comm, shared_path, kind):
    _write_input(comm, shared_path)
    parallel = _case(kind, shared_path)
    assert main(comm, parallel)
    alone = _case(kind, shared_path)
    alone.output += "-alone"
    if comm.rank == 0:
        from mpi4py import MPI

        main(MPI.COMM_SELF, alone)
        _equal(_results(parallel), _results(alone))


@pytest.mark.mpi
@pytest.mark.parametrize("kind", EQUATIONS)
def test_restart_on_other_ranks_changes_no_bit(comm, shared_path, kind):
    _write_input(comm, shared_path)
    straight = _case(kind, shared_path)
    main(comm, straight)
    stopped = _case(kind, shared_path)
    stopped.output += "-stopped"
    stopped.max_seconds = 1e-6
    if comm.rank == 0:  # one rank is asked to stop after its first step, all ranks go on
        from mpi4py import MPI

        with pytest.raises(Checkpointed, match="after 1 of 12 steps: run again with --resume"):
            main(MPI.COMM_SELF, stopped)
    comm.Barrier()
    stopped.max_seconds, stopped.resume = 0.0, True
    main(comm, stopped)
    _equal(_results(straight), _results(stopped))


@pytest.mark.mpi
def test_restart_refuses_another_case(comm, shared_path):
    config = _case("heat", shared_path)
    config.checkpoint_every = 4
    main(comm, config)
    config.resume, config.steps = True, 20
    with pytest.raises(ConfigError, match=r"of another case.*leave out --resume"):
        main(comm, config)


@pytest.mark.mpi
def test_heat_approaches_the_analytic_solution_in_second_order(comm, shared_path):
    def error(n: int) -> float:
        config = Config(shape=(n, n, n), output=str(shared_path / "r"), snapshots=0, duration=0.05)
        return main(comm, config)["largest error against the analytic solution"]

    assert 3.5 < error(8) / error(16) < 4.5
    assert not list(shared_path.glob("r/*.vtkhdf"))


@pytest.mark.mpi
@pytest.mark.usefixtures("petsc")
def test_implicit_steps(comm, shared_path):
    config = Config(
        shape=(8, 8),
        heat=heat.Options(implicit=True),
        dt=1e-3,
        steps=5,
        output=str(shared_path / "r"),
    )
    assert "halo share, % of the steps" not in main(comm, config)


@pytest.mark.mpi
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(comm, shared_path, monkeypatch):
    step = Heat.step

    def signalled(solver, dt):
        step(solver, dt)
        if comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    config = _case("heat", shared_path)
    monkeypatch.setattr(Heat, "step", signalled)
    with pytest.raises(Checkpointed, match="after 1 of 12 steps"):
        main(comm, config)
    assert list(Path(config.output).glob("checkpoint/*.json"))


@pytest.mark.mpi
def test_periodic_box_with_an_input_keeps_its_heat(comm, shared_path):
    if comm.rank == 0:
        np.save(shared_path / "u.npy", np.random.default_rng(3).normal(size=(9, 10)))
    comm.Barrier()
    config = Config(
        shape=(9, 10),
        periodic=True,
        input=str(shared_path / "u.npy"),
        output=str(shared_path / "r"),
    )
    assert abs(main(comm, config)["heat gained or lost, of all"]) < 1e-12


BAD = {
    "missing": ({"input": "none.npy", "shape": (8, 8)}, "there is no file"),
    "truncated": ({"input": "short.npy", "shape": (8, 8)}, "cut short or damaged"),
    "other shape": ({"input": "good.npy", "shape": (9, 8)}, r"has shape \(8, 8\)"),
    "nan": ({"input": "nan.npy", "shape": (8, 8)}, "NaN or infinite"),
    "nan, refined": ({"input": "nan.npy", "shape": (8, 8), "refine": 2}, "NaN or infinite"),
    "no bounds": (
        {"input": "good.npy", "shape": (8, 8), "equation": "tsunami"},
        r"\[west, east, south, north\]",
    ),
    "swapped bounds": (
        {
            "input": "good.npy",
            "shape": (8, 8),
            "equation": "hillslope",
            "bounds": (1.0, 0.0, 0.0, 1.0),
        },
        r"\[west, east, south, north\]",
    ),
    "no sea": (
        {
            "input": "good.npy",
            "shape": (8, 8),
            "equation": "tsunami",
            "bounds": (0.0, 1.0, 0.0, 1.0),
        },
        "water",
    ),
    "source on land": (
        {
            "input": "coast.npy",
            "shape": (8, 8),
            "equation": "tsunami",
            "bounds": (0.0, 1.0, 0.0, 1.0),
        },
        "the source raises no water",
    ),
    "no walls": (
        {"equation": "gray_scott", "shape": (12, 12)},
        "'gray_scott' needs a periodic grid of 2 dimensions, but shape is 12 x 12 and periodic = f",
    ),
    "too flat": (
        {"equation": "burgers", "shape": (12, 12), "periodic": True},
        "needs a periodic grid of 1 dimension, but shape is 12 x 12",
    ),
    "no place for it": (
        {"input": "good.npy", "equation": "burgers", "shape": (12,), "periodic": True},
        "takes no input",
    ),
    "no soliton": (
        {
            "equation": "combined",
            "shape": (12,),
            "periodic": True,
            "combined": combined.Options(beta=0.1),
        },
        "no soliton with alpha = 6, beta = 0.1",
    ),
    "no input": (
        {"shape": (8, 8), "equation": "tsunami", "bounds": (0.0, 1.0, 0.0, 1.0)},
        "needs an input",
    ),
    "one dimension": (
        {"input": "good.npy", "shape": (64,), "equation": "hillslope"},
        "its 2-D shape",
    ),
    "weak scaling": (
        {"input": "good.npy", "shape": (8, 8), "per_rank": True},
        "per_rank = true has no input",
    ),
    "unstable": ({"shape": (8, 8), "dt": 1.0}, "unstable: the largest stable one is"),
    "three times": ({"shape": (8, 8), "dt": 1e-4, "steps": 3, "duration": 1.0}, "leave one out"),
    "process grid": ({"shape": (8, 8), "process_shape": (97, 1)}, "needs 97 ranks"),
    "too many dimensions": ({"shape": (4, 4, 4, 4)}, "1 to 3 dimensions"),
    "output below a file": (
        {"shape": (8, 8), "output": "good.npy/results"},
        "cannot write results to",
    ),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_on_all_ranks_and_leaves_nothing(comm, shared_path, name):
    if comm.rank == 0:
        good = np.ones((8, 8))
        np.save(shared_path / "good.npy", good)
        (shared_path / "short.npy").write_bytes((shared_path / "good.npy").read_bytes()[:-99])
        np.save(shared_path / "coast.npy", np.where(np.arange(8) > 5, -100.0, good))
        good[5, 3] = np.nan
        np.save(shared_path / "nan.npy", good)
    comm.Barrier()
    wrong, message = BAD[name]
    config = Config(**{"output": "results", **wrong})
    config.output = str(shared_path / config.output)
    config.input = config.input and str(shared_path / config.input)
    with pytest.raises(ConfigError, match=message) as caught:
        main(comm, config)
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert not (shared_path / "results").exists()


@pytest.mark.mpi(min_size=2)
def test_more_ranks_than_cells(comm, shared_path):
    with pytest.raises(ConfigError, match="no process grid"):
        main(comm, Config(shape=(1,), output=str(shared_path / "results")))


@pytest.mark.mpi
def test_a_state_that_explodes_ends_the_run(comm, shared_path, monkeypatch):
    config = Config(shape=(8, 8), output=str(shared_path / "r"))
    monkeypatch.setattr(Heat, "step", _spoil)
    with pytest.raises(HpckitError, match="the state holds NaN after 1 of 50 steps"):
        main(comm, config)
    assert not (shared_path / "r" / "heat.vtkhdf").exists()


def _spoil(solver, dt):
    solver.fields["temperature"][...] = np.nan


def test_schedule():
    assert schedule(Config(), 1.0) == (50, 0.9)
    assert schedule(Config(duration=10.0), 1.0) == (12, 10 / 12)
    assert schedule(Config(duration=10.0, steps=20), 1.0) == (20, 0.5)
    assert schedule(Config(duration=10.0, dt=0.5), 1.0) == (20, 0.5)
    assert schedule(Config(steps=3, dt=0.5), 1.0) == (3, 0.5)
    for config in (Config(), Config(duration=1.0), Config(steps=5)):
        with pytest.raises(ConfigError, match="any length"):
            schedule(config, np.inf)
    assert schedule(Config(duration=1.0, steps=4), np.inf) == (4, 0.25)


@pytest.mark.parametrize(
    ("wrong", "dt_max", "message"),
    [
        ({}, 0.0, r"largest stable time step is 0 with heat.kappa = 1: "),
        ({"duration": 1e300}, 1e-6, r"duration 1e\+300 takes 1.11e\+306 steps"),
        ({"steps": 2**62, "dt": 1e300}, 1e301, "are no time"),
        ({"steps": 5, "snapshots": 7}, 1.0, "snapshots = 7, but 5 steps have only 6 moments"),
    ],
)
def test_times_that_no_run_can_reach(wrong, dt_max, message):
    with pytest.raises(ConfigError, match=message):
        schedule(Config(**wrong), dt_max)


def test_dry_run_without_a_model_of_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCKIT_CACHE", str(tmp_path))
    assert "any run of this program on two ranks measures one" in estimate(Config(), 2)


def test_snapshots_are_even_and_end_at_the_end():
    assert marks(10, 0) == {}
    assert marks(10, 1) == {10: 0}
    assert marks(10, 3) == {0: 0, 5: 1, 10: 2}
    assert marks(2, 5) == {0: 0, 1: 1, 2: 2}


def test_dry_run_of_4096_ranks():
    text = estimate(Config(shape=(128, 128, 128), per_rank=True, snapshots=0), 4096)
    assert "2048 x 2048 x 2048 = 8,589,934,592 cells on 4096 ranks" in text
    assert "16 x 16 x 16, blocks of 2,097,152 to 2,097,152 cells" in text
    assert "786 kB received per rank" in text


def test_layout_refuses_what_no_run_could_have():
    with pytest.raises(
        ConfigError, match=r"needs 6 ranks in 2 dimensions, but there are 4 in 3: use \(2, 2, 1\)"
    ):
        layout(Config(process_shape=(3, 2)), 4)
