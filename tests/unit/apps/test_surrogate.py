"""The program for surrogates from within: right on any ranks, restarts, tapes, bad input."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.apps.surrogate import monitor
from hpckit.apps.surrogate.config import (
    Buffer,
    Config,
    Engine,
    Offline,
    Predict,
    Schedule,
    Speeds,
    Validation,
)
from hpckit.apps.surrogate.estimate import Measured, Size, estimate, load
from hpckit.apps.surrogate.job import main
from hpckit.apps.surrogate.making import Noted
from hpckit.apps.surrogate.results import Results
from hpckit.errors import Checkpointed, ConfigError
from hpckit.surrogate.equations import SOLVERS
from hpckit.surrogate.space import Box, Uniform
from hpckit.surrogate.surrogate import Surrogate
from hpckit.surrogate.tape import Tape

ROOT = Path(__file__).parents[3]


def _case(folder: Path, **more) -> Config:
    """A tiny study: 5 steps of 16 values, a network with 8 hidden units."""
    case = {
        "solver_options": {"shape": [4, 4], "steps": 5},
        "model_options": {"hidden": [8]},
        "engine": Engine(rate=0.02),
        "steps": 60,
        "batch": 8,
        "buffer": Buffer(capacity=100, threshold=20),
        "schedule": Schedule(samples=2),
        "validation": Validation(simulations=5, every=20),
        "pictures": False,
        "output": str(folder / "r"),
    }
    return Config(**case | more)


def _results(config: Config) -> Results:
    return Results.load(Path(config.output))


def _same_training(one, other) -> None:
    np.testing.assert_array_equal(one.losses, other.losses)
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.errors, other.errors)


@pytest.mark.mpi
def test_a_run_says_how_good_and_how_fast_it_was(comm, shared_path):
    config = _case(shared_path)
    said = main(comm, config)
    assert said["gradient steps"] == 60
    found = _results(config)
    assert found.online.losses[-10:].mean() < 0.5 * found.online.losses[:5].mean()
    assert found.online.scores[:, 0].tolist() == [20, 40, 60]
    assert found.online.errors.shape == (5, 5)
    assert found.online.errors.mean() == pytest.approx(found.online.scores[-1, 1], rel=1e-5)
    assert (np.diff(found.online.shown) >= 0).all()
    roles = [name.split()[0] for name in found.course.ranks]
    assert roles == ["trainer"] + ["solver"] * (comm.size - 1)
    simulations = found.course.parameters
    assert simulations.shape[1] == 5 and ((simulations >= 100) & (simulations <= 500)).all()
    if comm.rank == 0:
        assert said["samples trained on"] == 60 * 8
        assert said["a sample was trained on, times on average"] > 1
        surrogate = Surrogate.load(config.output)
        assert surrogate.space.names == ("ic", "x1", "x2", "y1", "y2")


@pytest.mark.mpi
def test_lockstep_gives_the_same_on_any_ranks(comm, shared_path):
    config = _case(shared_path)
    main(comm, config)
    if comm.rank == 0:
        alone = _case(shared_path / "alone")
        main(MPI.COMM_SELF, alone)
        _same_training(_results(config).online, _results(alone).online)


@pytest.mark.mpi
@pytest.mark.parametrize("task", ["run", "compare"])
def test_stopped_and_resumed_changes_nothing(comm, shared_path, monkeypatch, forget_signals, task):
    case = {"task": task, "offline": Offline(simulations=10)}
    whole = _case(shared_path / "whole", **case)
    main(comm, whole)
    stopped = _case(shared_path / "stopped", **case)
    heat, calls = SOLVERS["heat"], []
    run = heat.run

    def signalled(solver, parameters, comm):
        calls.append(parameters)
        if len(calls) == 8:
            os.kill(os.getpid(), signal.SIGUSR1)
        return run(solver, parameters, comm)

    monkeypatch.setattr(monitor, "_INTERVAL", 0.0)  # trainers meet after each gradient step
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(heat, "run", signalled)
    with pytest.raises(Checkpointed, match=r"stopped after \d+ gradient steps: run again"):
        main(comm, stopped)
    assert not (Path(stopped.output) / "results.npz").exists()
    monkeypatch.undo()
    comm.Barrier()
    stopped.resume = True
    forget_signals()
    main(comm, stopped)
    main(comm, stopped)  # nothing is left to do, but to say it again
    if comm.rank == 0:
        one, other = _results(whole), _results(stopped)
        assert list(one.trainings) == list(other.trainings)
        for name, training in one.trainings.items():
            _same_training(training, other.trainings[name])


@pytest.mark.mpi
def test_online_and_offline_are_compared_on_the_same(comm, shared_path):
    config = _case(shared_path, task="compare", offline=Offline(simulations=10))
    said = main(comm, config)
    found = _results(config)
    np.testing.assert_array_equal(found.online.times, found.offline.times)
    assert found.online.scores[:, 0].tolist() == found.offline.scores[:, 0].tolist()
    assert said["online / offline, validation, mean squared error"] == pytest.approx(
        found.ratio, rel=1e-3
    )
    tape = Tape.open(Path(config.output) / "tape")
    assert tape.validation == [-1, -2, -3, -4, -5]
    of_open_ones = found.course.reuse.sum() - 5 * len(tape.simulations)
    assert 0 <= of_open_ones <= 4 * config.lanes  # what came is on the tape, and nothing else
    np.testing.assert_array_equal(tape.parameters, found.course.parameters[: len(tape.simulations)])
    main(comm, _case(shared_path, task="compare", offline=Offline(simulations=10)))
    if comm.rank == 0:
        _same_training(found.offline, _results(config).offline)
    assert (Path(config.output) / "tape.old/tape.json").exists()


@pytest.mark.mpi
def test_a_record_is_trained_from_and_gone_on_with(comm, shared_path):
    record = _case(shared_path, task="record", simulations=7)
    said = main(comm, record)
    assert said["simulations"] == 7 and said["steps, with those for validation"] == (7 + 5) * 5
    record.simulations, record.resume = 9, True
    assert main(comm, record)["steps, with those for validation"] == 2 * 5
    tape = Path(record.output) / "tape"
    assert Tape.open(tape).simulations == list(range(9))
    offline = _case(shared_path / "off", task="offline", tape=str(tape))
    said = main(comm, offline)
    if comm.rank == 0:
        assert said["steps of simulations"] == 9 * 5
        alone = _case(shared_path / "alone", task="offline", tape=str(tape))
        main(MPI.COMM_SELF, alone)
        _same_training(_results(offline).offline, _results(alone).offline)


@pytest.mark.mpi
def test_predictions_need_the_folder_alone(comm, shared_path):
    config = _case(shared_path)
    main(comm, config)
    given = Predict(parameters={"ic": 200.0}, times=(0.02, 0.05))
    said = main(comm, _case(shared_path, task="predict", solver="none", predict=given))
    if comm.rank == 0:
        assert said["parameters"] == "ic = 200, x1 = 300, x2 = 300, y1 = 300, y2 = 300"
        with np.load(Path(config.output) / "prediction.npz") as file:
            assert file["temperature"].shape == (2, 4, 4)
            parameters = dict.fromkeys(("x1", "x2", "y1", "y2"), 300.0) | {"ic": 200.0}
            wanted = Surrogate.load(config.output).predict(parameters, 0.05)["temperature"]
            np.testing.assert_allclose(file["temperature"][1], wanted, rtol=1e-6)


@pytest.mark.mpi
def test_pictures(comm, shared_path):
    main(comm, _case(shared_path, task="compare", offline=Offline(simulations=10)))
    said = main(comm, _case(shared_path, task="report"))
    main(comm, _case(shared_path, task="predict", pictures=True))
    names = ["fields", "learning", "times", "buffer", "waiting", "parameters", "prediction"]
    files = [shared_path / f"r/{name}.png" for name in names]
    for file in files:
        assert file.stat().st_size > 5000
    if comm.rank == 0:
        assert all(str(file) in said["written"] for file in files[:-1])


BAD = {
    "solver": ({"solver": "cold"}, "solver 'cold' is not known: it must be one of heat"),
    "solver to import": ({"solver": "nowhere:Heat"}, "solver 'nowhere:Heat' cannot be imported"),
    "solver options": ({"solver_options": {"size": 3}}, r"cannot be made with \(size=3\)"),
    "model": ({"model": "brain"}, "model 'brain' must be one of mlp"),
    "model options": ({"model_options": {"depth": 3}}, "depth"),
    "view": ({"view": "sideways"}, "view = 'sideways' must be direct"),
    "threshold": ({"buffer": Buffer(capacity=10, threshold=10)}, "threshold 10 must be below"),
    "batch": ({"batch": 200}, "batch = 200 samples do not fit"),
    "fifo": ({"buffer": Buffer(kind="fifo")}, "gives each sample once"),
    "firo": ({"buffer": Buffer(kind="firo")}, "gives each sample once"),
    "trainers": ({"trainers": 9, "lanes": 9}, "trainers = 9"),
    "torch options": ({"engine": Engine(bf16=True)}, "bf16"),
    "no tape": ({"task": "offline"}, "there is no tape in .*: record one"),
    "few simulations": (
        {"task": "compare", "offline": Offline(simulations=1000)},
        r"offline\.simulations = 1000 of about 25",
    ),
    "no results": ({"task": "report"}, "there are no results in"),
    "no surrogate": ({"task": "predict"}, "no study has ended there yet"),
    "output below a file": ({"output": "text.txt/r"}, "cannot write results to|Not a directory"),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_on_all_ranks(comm, shared_path, name):
    if comm.rank == 0:
        (shared_path / "text.txt").write_text("nothing of the kind\n")
    comm.Barrier()
    wrong, message = BAD[name]
    config = _case(shared_path, **wrong)
    if "output" in wrong:
        config.output = str(shared_path / wrong["output"])
    with pytest.raises(ConfigError, match=message) as caught:
        main(comm, config)
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert not (Path(config.output) / "surrogate.npz").exists()


@pytest.mark.mpi
def test_predicting_what_is_not_known(comm, shared_path):
    main(comm, _case(shared_path))
    for given, message in (
        ({"parameters": {"nu": 1.0}}, "nu is not known: the surrogate has ic, x1"),
        ({"parameters": {"ic": 300.0}, "history": "none.npz"}, None),
    ):
        config = _case(shared_path, task="predict", predict=Predict(**given))
        if message is None:
            main(comm, config)  # this view needs no history
            continue
        with pytest.raises(ConfigError, match=message):
            main(comm, config)


def test_a_sampler_is_noted_with_all_that_it_knows():
    plain = Uniform().bind(Box(a=(0, 1), b=(2, 3)), 5)
    noted = Noted(Uniform()).bind(Box(a=(0, 1), b=(2, 3)), 5)
    assert repr(Noted(Uniform())) == repr(Uniform())
    np.testing.assert_array_equal(noted.draw(3), plain.draw(3))
    np.testing.assert_array_equal(noted.validation(3), plain.validation(3))
    again = Noted(Uniform()).bind(Box(a=(0, 1), b=(2, 3)), 5)
    again.restore(noted.state())
    assert again.drawn == {3: plain.draw(3).tolist()}


def test_the_slower_ones_set_the_pace():
    case = _case(Path(), batch=64, schedule=Schedule(samples=16))
    size = Size(values=1024, inputs=6, steps=100)
    slow = load(case, Measured(step=1e-2, gradient_step=4e-3, receive=0.0), size, 4, False)
    assert slow.steps == pytest.approx(400) and slow.solvers == pytest.approx(1)
    assert slow.gradient_steps == pytest.approx(25) and slow.trainers == pytest.approx(0.1)
    quick = load(case, Measured(step=1e-4, gradient_step=4e-3, receive=1e-4), size, 4, False)
    assert quick.gradient_steps == pytest.approx(1 / (4e-3 + 16e-4))
    assert quick.solvers == pytest.approx(quick.gradient_steps * 16 * 1e-4 / 4)
    assert quick.reuse == pytest.approx(4)
    uneven = load(case, Measured(step=1e-2, gradient_step=4e-3, receive=0.0), size, 5, False)
    assert uneven.steps == pytest.approx(400) and uneven.solvers == pytest.approx(0.8)  # 8 lanes
    inline = load(case, Measured(step=1e-3, gradient_step=4e-3), size, 1, True)
    assert inline.gradient_steps == pytest.approx(50)
    free = _case(Path(), batch=64, schedule=Schedule(kind="free", reuse=2.0))
    waits = load(free, Measured(step=1e-2, gradient_step=1e-3, receive=0.0), size, 1, False)
    assert waits.steps == pytest.approx(100) and waits.gradient_steps == pytest.approx(200 / 64)


def test_an_estimate_is_arithmetic(tmp_path):
    config = _case(tmp_path, speeds=Speeds(step=1e-3, gradient_step=1e-2, receive=1e-4))
    text = estimate(config, 9)
    assert "1 train, 8 solve in 8 groups of 1" in text and "trainers train 98 % of the time" in text
    many = _case(tmp_path, trainers=64, lanes=4032, group=1)
    assert "not known: run the case once" in estimate(many, 4096)
    with pytest.raises(ConfigError, match="give --lanes 4095"):
        estimate(config, 4096)
    with pytest.raises(ConfigError, match="makes no groups of 3"):
        estimate(_case(tmp_path, group=3), 9)


def test_what_a_run_measured_is_what_a_dry_run_reckons_with(tmp_path):
    config = _case(tmp_path)
    main(MPI.COMM_SELF, config)
    assert "not known" not in estimate(config, 3)


QUIET = """
import os, runpy, sys
os.dup2(os.open(f"stderr.{os.environ['PMI_RANK']}", os.O_CREAT | os.O_WRONLY), 2)
sys.argv = ["hpckit.apps.surrogate", *sys.argv[1:]]
runpy.run_module("hpckit.apps.surrogate", run_name="__main__")
"""


def test_nothing_is_said_on_stderr_at_a_good_end(tmp_path, mpirun):
    (tmp_path / "quiet.py").write_text(QUIET.replace("os.environ['PMI_RANK']", "os.getpid()"))
    words = ["--task", "compare", "--steps", 40, "--solver-options", "{shape=[4,4], steps=5}"]
    words += ["--buffer.threshold", 20, "--offline.simulations", 5, "--pictures", "false"]
    done = mpirun(3, "quiet.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    said = [path.read_text() for path in tmp_path.glob("stderr.*")]
    assert said == [""] * 3
    assert "online / offline, validation, mean squared error" in done.stdout


def test_wrong_words_are_one_line_and_exit_2(mpirun, tmp_path):
    done = mpirun(2, "-m", "hpckit.apps.surrogate", "quick", "--model", "brain", cwd=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stdout.splitlines() if "brain" in line]
    assert len(lines) == 1 and "model 'brain' must be one of mlp, " in lines[0]


@pytest.mark.parametrize("name", ["quick", "heat", "burgers_fno", "gray_scott"])
def test_cases_can_be_read(name):
    from hpckit.program import cases
    from hpckit.program.options import parse

    _, config = parse(Config, [name], cases.folder("hpckit.apps.surrogate"))
    assert config.output.startswith("results/surrogate-")
