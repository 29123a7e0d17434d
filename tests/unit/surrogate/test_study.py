"""Studies: the same bits on any number of ranks, restarted or not; freely; and from tapes."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI
from studies import Decay, Watch, outcome, study

from hpckit.errors import Checkpointed, ConfigError
from hpckit.surrogate.breed import Breed
from hpckit.surrogate.buffers import FIFO, FIRO, Epochs, Reservoir
from hpckit.surrogate.schedule import Free, Lockstep
from hpckit.surrogate.space import Uniform
from hpckit.surrogate.tape import Tape

CASES = {
    "reservoir": {},
    "fifo": {"buffer": FIFO(30), "schedule": Lockstep(8)},
    "firo": {"buffer": FIRO(40, threshold=20), "schedule": Lockstep(9)},
    "fifo that runs dry": {"buffer": FIFO(30), "schedule": Lockstep(8), "view": "initial"},
    "epochs": {"buffer": Epochs(), "simulations": 7},
    "initial": {"view": "initial"},
    "pairs": {"view": "pairs:2"},
    "window": {"view": "window:3", "buffer": FIRO(40, threshold=20), "schedule": Lockstep(16)},
    "finite": {"simulations": 9, "steps": 1000},
    "breed": {"sampler": Breed(share=0.9, ramp=5, parents=9), "lanes": 3},
    "sobol": {"sampler": "sobol", "ranges": [[0, 2], [1, 3], [0, 1], [0, 36], [-3, 0]]},
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def alone(**changes):
    """The outcome on one rank that solves for itself."""
    watch = Watch()
    return outcome(study(MPI.COMM_SELF, **changes).run(each=watch), watch)


def test_same_bits_on_any_number_of_ranks(comm, case):
    watch = Watch()
    result = study(comm, **case).run(each=watch)
    roles = ["trainer"] + ["solver"] * (comm.size - 1)
    assert [rank.role for rank in result.ranks] == roles
    if comm.rank == 0:
        assert outcome(result, watch) == alone(**case)
        assert result.steps > 5
        assert result.history.scores[-1].mse < result.history.scores[0].mse
    assert (result.surrogate is not None) == (comm.rank == 0)


@pytest.mark.parametrize("stop", [1, 12])
def test_a_restarted_study_ends_as_if_it_had_not_stopped(comm, shared_path, case, stop):
    """Stopped on all ranks, it goes on on one of them."""
    changes = {**case, "folder": shared_path / "run"}
    first, second = Watch(stop), Watch()
    with pytest.raises(Checkpointed, match=f"^stopped after {stop}$"):
        study(comm, **changes).run(each=first)
    if comm.rank == 0:
        result = study(MPI.COMM_SELF, **changes).run(each=second, resume=True)
        assert min(second.digests) == stop + 1
        assert outcome(result, second) == alone(**case)


def test_goes_on_on_more_ranks_than_it_stopped_on(comm, shared_path):
    folder = shared_path / "run"
    if comm.rank == 0:
        with pytest.raises(Checkpointed):
            study(MPI.COMM_SELF, folder=folder).run(each=Watch(12))
    comm.Barrier()
    watch = Watch()
    result = study(comm, folder=folder).run(each=watch, resume=True)
    if comm.rank == 0:
        assert outcome(result, watch) == alone()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("simulations", [None, 11])
def test_two_trainers_are_the_same_on_any_number_of_solver_ranks(
    comm, shared_path, linear, simulations
):
    """Also restarted; with an odd number of simulations one has more batches than the other."""
    changes = {"trainers": 2, "simulations": simulations, "validation": 3, "view": "pairs:1"}
    changes["steps"] = 25 if simulations is None else 1000
    watch = Watch()
    result = study(comm, **changes).run(each=watch)
    pair = comm.Split(comm.rank if comm.rank > 1 else 0, comm.rank)
    if comm.rank < 2:  # solving for themselves
        reference = Watch()
        expected = study(pair, **changes).run(each=reference)
        assert outcome(result, watch if watch.digests else reference) == outcome(
            expected, reference
        )
        assert set(reference.digests.values()) >= set(watch.digests.values())
        folder = shared_path / "run"
        with pytest.raises(Checkpointed):
            study(pair, folder=folder, **changes).run(each=Watch(5))
        again = Watch()
        resumed = study(pair, folder=folder, **changes).run(each=again, resume=True)
        assert outcome(resumed, again) == outcome(expected, reference)
    pair.Free()
    left = [rank.left for rank in result.trainers]
    assert sum(left) == 0 if simulations is None else max(left) > min(left) == 0


@pytest.mark.parametrize("view", ["direct", "pairs:2"])
@pytest.mark.parametrize("buffer", [FIFO(40), Reservoir(40, threshold=20)])
def test_free_studies_train_on_every_step_once_it_is_there(comm, linear, buffer, view):
    """Whatever comes first: all of so many simulations comes, and FIFO draws each sample once."""
    changes = {"schedule": Free(), "simulations": 13, "steps": 1000, "trainers": min(comm.size, 2)}
    result = study(comm, buffer=buffer, view=view, **changes).run()
    samples = 13 * (6 if view == "direct" else 4)
    assert result.received == samples
    assert np.sum([rank.steps for rank in result.trainers]) == 13 * 6
    if isinstance(buffer, FIFO) and comm.size == 1:
        assert result.drawn == samples
        assert result.steps == -(-samples // 8)


def test_free_studies_draw_samples_no_more_often_than_they_may(comm):
    seen = []

    def each(study):
        buffer = study.training.intake.buffer
        seen.append((buffer.received, buffer.drawn))

    study(comm, schedule=Free(reuse=2), steps=60).run(each=each)
    assert all(drawn <= 2 * received + 8 for received, drawn in seen)
    assert len(seen) == (60 if comm.rank == 0 else 0)


def test_checkpoints_come_by_themselves(comm, shared_path):
    """Every so many seconds: here after each gradient step, of which the next one knows."""
    study(comm, folder=shared_path / "run", save_every=1e-9, steps=4).run()
    watch = Watch()
    result = study(comm, folder=shared_path / "run").run(each=watch, resume=True)
    if comm.rank == 0:
        assert min(watch.digests) == 5
        losses, _, _, digest = alone()
        assert (list(result.history.losses), watch.digests[25]) == (losses, digest)


class Recorder:
    """A sampler that remembers what it has learned."""

    def __init__(self):
        self.learned = []

    def __repr__(self):
        return "Recorder()"

    def bind(self, box, seed):
        self._sampler = Uniform().bind(box, seed)
        return self

    def draw(self, simulation):
        return self._sampler.draw(simulation)

    def validation(self, number):
        return self._sampler.validation(number)

    def learn(self, simulations, losses):
        self.learned.append((simulations.copy(), losses.copy()))

    def state(self):
        return {"batches": len(self.learned)}

    def restore(self, state):
        self.learned = [None] * state["batches"]


def test_samplers_learn_the_loss_of_every_sample(comm):
    sampler = Recorder()
    result = study(comm, sampler=sampler, simulations=6, steps=1000).run()
    if comm.rank == 0:
        means = [losses.mean() for _, losses in sampler.learned]
        np.testing.assert_allclose(means, result.history.losses)
        drawn = np.concatenate([simulations for simulations, _ in sampler.learned])
        assert set(drawn) == set(range(6))
        assert len(drawn) == result.drawn


def test_breed_steers_what_is_solved(comm):
    """Simulations depend on losses, and yet are the same on any number of ranks."""
    drawn = []
    for sampler in ("uniform", Breed(share=0.9, ramp=5)):
        seen = {}

        def each(study, seen=seen):
            buffer = study.training.intake.buffer
            numbers, x = (buffer.columns[name][: buffer.population] for name in ("simulation", "x"))
            seen |= dict(zip(numbers.tolist(), x[:, 0].tolist(), strict=True))

        study(comm, sampler=sampler, lanes=3).run(each=each)
        drawn.append(seen)
    if comm.rank == 0:
        common = drawn[0].keys() & drawn[1].keys()
        assert any(drawn[0][number] != drawn[1][number] for number in common)


def test_what_a_sampler_learned_is_in_the_checkpoint(comm, shared_path):
    folder = shared_path / "run"
    with pytest.raises(Checkpointed):
        study(comm, sampler=Recorder(), folder=folder).run(each=Watch(7))
    sampler = Recorder()
    study(comm, sampler=sampler, folder=folder).run(resume=True)
    if comm.rank == 0:
        assert len(sampler.learned) == 25
        assert sampler.learned[6] is None
        assert sampler.learned[7] is not None


def test_a_tape_of_a_study_has_what_it_was_trained_on(comm, shared_path):
    """Recorded while training, and solved for that alone, the same steps are on it."""
    folder = shared_path / "tape"
    result = study(comm, simulations=9, steps=1000).run(tape=folder)
    study(comm).record(shared_path / "other", 4)
    study(comm).record(shared_path / "other", 9, resume=True)
    comm.Barrier()
    tape, other = Tape(folder), Tape(shared_path / "other")
    assert tape.simulations == other.simulations == list(range(9))
    assert tape.validation == other.validation == [-1, -2, -3, -4, -5]
    for number in tape.simulations:
        for one, two in zip(tape.read(number), other.read(number), strict=True):
            assert np.array_equal(one, two)
    assert result.received == 9 * 6


def test_a_tape_goes_on_with_its_study(comm, shared_path):
    """Stopped in the middle of simulations, which are solved again, from a step on."""
    changes = {"simulations": 9, "steps": 1000, "folder": shared_path / "run"}
    with pytest.raises(Checkpointed):
        study(comm, **changes).run(tape=shared_path / "tape", each=Watch(6))
    study(comm, **changes).run(tape=shared_path / "tape", resume=True)
    study(comm).record(shared_path / "other", 9)
    comm.Barrier()
    tape, other = Tape(shared_path / "tape"), Tape(shared_path / "other")
    assert tape.simulations == list(range(9))
    for number in tape.validation + tape.simulations:
        for one, two in zip(tape.read(number), other.read(number), strict=True):
            assert np.array_equal(one, two)


def test_a_study_that_is_resumed_at_its_end_gives_its_result_again(comm, shared_path):
    folder = shared_path / "run"
    first = study(comm, folder=folder, steps=12).run(each=lambda study: study.save())
    again = study(comm, folder=folder, steps=12).run(resume=True)
    assert again.history == first.history
    assert again.received == first.received
    assert (again.surrogate is None) == (comm.rank > 0)


def test_offline_trains_on_a_tape_as_online_does_on_the_same_set(comm, shared_path):
    """`Epochs` in both: the same samples in another order of arrival, the same validation."""
    study(comm).record(shared_path / "tape", 8)
    comm.Barrier()
    watch = Watch()
    result = study(comm).train(shared_path / "tape", 7, each=watch)
    if comm.rank == 0:
        online = study(MPI.COMM_SELF, lanes=1, buffer=Epochs(), simulations=7)
        reference = Watch()
        expected = online.run(each=reference)
        assert watch.digests == reference.digests
        assert result.history == expected.history
        assert result.received == 7 * 6


def test_offline_studies_go_on_with_their_checkpoints(comm, shared_path):
    study(comm).record(shared_path / "tape", 5)
    comm.Barrier()
    reference, first, second = Watch(), Watch(11), Watch()
    expected = study(comm).train(shared_path / "tape", each=reference)
    mine = study(comm, folder=shared_path / "run")
    with pytest.raises(Checkpointed):
        mine.train(shared_path / "tape", each=first)
    result = mine.train(shared_path / "tape", each=second, resume=True)
    if comm.rank == 0:
        assert outcome(result, second) == outcome(expected, reference)


@pytest.mark.parametrize(
    ("changes", "simulations", "why"),
    [
        ({"solver": type("Other", (Decay,), {"steps": 5})()}, 3, "of another solver, with steps"),
        ({}, 4, "has 3 whole simulations, but 4 are wanted"),
        ({"validation": 6}, 3, "5 whole simulations for validation, but 6 are wanted"),
    ],
)
def test_tapes_that_do_not_fit_are_told_on_all_ranks(comm, shared_path, changes, simulations, why):
    study(comm).record(shared_path / "tape", 3)
    comm.Barrier()
    with pytest.raises(ConfigError, match=why):
        study(comm, **changes).train(shared_path / "tape", simulations)
