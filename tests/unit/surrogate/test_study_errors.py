"""What cannot be, or goes wrong under way: one clear error on every rank, and no hang."""

from __future__ import annotations

import re

import numpy as np
import pytest
import studies
from mpi4py import MPI
from studies import Decay, Watch, study

from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.surrogate.buffers import FIFO, Epochs
from hpckit.surrogate.schedule import Free, Lockstep


def solver(**changes):
    """`Decay` with other attributes."""
    return type("Changed", (Decay,), changes)()


def wrong_outputs(shapes):
    class Model:
        def partial_fit(self, x, y):
            return self

        def predict(self, x):
            return np.zeros((len(x), 3))

    return Model()


IMPOSSIBLE = [
    ({"batch": 0}, "batch = 0 must be a whole number of at least 1"),
    ({"batch": 2.5}, "batch = 2.5 must be a whole number"),
    ({"batch": 61}, r"batch = 61 samples do not fit into Reservoir\(60, threshold=20\)"),
    ({"buffer": FIFO(30)}, r"FIFO.*gives each sample once.*Lockstep\(8\), not 3"),
    ({"buffer": "reservoir"}, "buffer = 'reservoir' must be"),
    ({"buffer": Epochs()}, "say how many simulations"),
    ({"schedule": Lockstep(0)}, "samples of Lockstep = 0 must be"),
    ({"schedule": Free(reuse=-1)}, "reuse of Free = -1 must be a number above 0"),
    ({"schedule": 16}, "schedule = 16 must be"),
    ({"trainers": 0}, "trainers = 0 must be"),
    ({"trainers": 5}, "trainers = 5 are more than there are ranks"),
    ({"lanes": 0}, "lanes = 0 must be"),
    ({"steps": 0}, "steps = 0 must be"),
    ({"validation": -1}, "validation = -1 must be a whole number of at least 0"),
    ({"validate_every": 0}, "validate_every = 0 must be"),
    ({"simulations": 0}, "simulations = 0 must be"),
    ({"seed": -1}, "seed = -1 must be"),
    ({"save_every": 0}, "save_every = 0 must be a number above 0"),
    ({"deadline": "1 s"}, "deadline = '1 s' must be a number above 0"),
    ({"sampler": "sobel"}, "sampler = 'sobel' must be one of uniform, sobol"),
    ({"view": "triples:2"}, "view = 'triples:2' must be direct, initial"),
    ({"view": "window:6"}, "makes no sample of 6 steps: it needs 7"),
    ({"solver": Decay}, "must be an object, not a class"),
    ({"solver": object()}, "has no space, fields, steps, run"),
    ({"solver": solver(space={"rate": (0, 1)})}, "space must be a Box"),
    ({"solver": solver(fields={"u": (0,)})}, "shape"),
]


@pytest.mark.parametrize(("changes", "why"), IMPOSSIBLE)
def test_impossible_arguments_are_told_on_all_ranks(comm, changes, why):
    with pytest.raises(ConfigError, match=why) as caught:
        study(comm, **changes)
    assert "\n" not in str(caught.value)
    assert len(set(comm.allgather(str(caught.value)))) == 1


def test_ranks_that_ask_for_different_studies_are_told(comm):
    if comm.size > 1:
        with pytest.raises(ConfigError, match=r"the study must be the same on all ranks.*seed"):
            study(comm, seed=comm.rank)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("nets.mine:net", "nets"),
        (wrong_outputs, "17"),
        (lambda shapes: 3, "partial_fit"),
    ],
)
def test_models_that_do_not_fit_are_told_on_all_ranks(comm, model, why):
    with pytest.raises(ConfigError, match=why):
        study(comm, model=model).run()


def failing(at, how):
    """A solver that fails in a simulation that only one lane has."""

    class Failing(Decay):
        def run(self, parameters, comm):
            for step, (time, fields) in enumerate(super().run(parameters, comm)):
                if parameters["rate"] > 1.9 and step == at:
                    yield from how(time, fields)
                else:
                    yield time, fields

    return Failing()


def raises(time, fields):
    raise RuntimeError("no convergence")
    yield


BAD = {
    "raises": (raises, "RuntimeError: no convergence"),
    "NaN": (lambda time, fields: iter([(time, fields | {"v": np.full(5, np.nan)})]), "not finite"),
    "shape": (lambda time, fields: iter([(time, fields | {"v": np.ones(4)})]), "has shape"),
    "names": (lambda time, fields: iter([(time, {"u": fields["u"]})]), "not the fields u, v"),
    "time": (lambda time, fields: iter([(0.0, fields)]), "increase"),
    "ends": (lambda time, fields: iter([]), "must yield 6 times"),
}


@pytest.mark.parametrize("kind", BAD)
def test_solvers_that_fail_are_told_on_all_ranks(comm, kind):
    how, why = BAD[kind]
    with pytest.raises(HpckitError, match=rf"^(rank \d: )?simulation \d+ \(rate = .*step .*{why}"):
        study(comm, failing(3, how), steps=1000).run()


def test_an_error_in_each_is_told_on_all_ranks(comm):
    def each(study):
        if study.training.done == 7:
            raise ValueError("seven")

    with pytest.raises(HpckitError, match=r"^(rank 0: )?ValueError: seven$"):
        study(comm).run(each=each)


def test_a_loss_that_is_not_finite_is_told_on_all_ranks(comm, linear, monkeypatch):
    def grows(self, x, y):
        return np.full(len(x), np.inf)

    monkeypatch.setattr(studies.Linear, "step", grows)
    with pytest.raises(HpckitError, match="loss of gradient step 1 is not a finite number"):
        study(comm, trainers=min(comm.size, 2)).run()


@pytest.mark.mpi(min_size=2)
def test_a_trainer_hears_of_an_error_while_it_waits_for_the_other(comm, linear):
    """Simulation 5 is the second trainer's; the first has its batch and waits in vain."""

    mine = study(comm, trainers=2, validation=0)
    rate = mine.bound_sampler().draw(5)[0]

    class Failing(Decay):
        def run(self, parameters, comm):
            for step, given in enumerate(super().run(parameters, comm)):
                if parameters["rate"] == rate and step == 4:
                    raise RuntimeError("second trainer's")
                yield given

    with pytest.raises(HpckitError, match=r"simulation 5 .*second trainer's"):
        study(comm, Failing(), trainers=2, validation=0, steps=1000).run()


@pytest.fixture
def saved(comm, shared_path):
    """A folder with checkpoints of gradient steps 5 and 10."""
    folder = shared_path / "run"

    def each(study):
        if study.training.done in (5, 10):
            study.save()
        if study.training.done == 10:
            raise Checkpointed("stopped")

    with pytest.raises(Checkpointed):
        study(comm, folder=folder).run(each=each)
    comm.Barrier()
    return folder


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"batch": 9}, "batch = 8 instead of 9"),
        ({"seed": 4}, "seed"),
        ({"view": "initial"}, "view"),
    ],
)
def test_checkpoints_of_another_study_are_refused(comm, saved, changes, name):
    with pytest.raises(ConfigError, match=f"are of another study, with {name}"):
        study(comm, folder=saved, **changes).run(resume=True)


def test_a_damaged_checkpoint_is_passed_over(comm, saved, caplog):
    newest = sorted((saved / "checkpoint").glob("*.bin"))[-1]
    comm.Barrier()
    if comm.rank == 0:
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
    comm.Barrier()
    watch = Watch()
    result = study(comm, folder=saved).run(each=watch, resume=True)
    if comm.rank == 0:
        assert "is damaged" in caplog.text
        assert min(watch.digests) == 6
        reference = Watch()
        expected = study(MPI.COMM_SELF).run(each=reference)
        assert studies.outcome(result, watch) == studies.outcome(expected, reference)


def test_a_study_that_starts_over_sets_checkpoints_aside(comm, saved):
    study(comm, folder=saved, steps=3).run()
    comm.Barrier()
    assert re.search(r"checkpoint-\d+", str(list((saved / "checkpoint.old").iterdir())))
    assert not list((saved / "checkpoint").iterdir())
