"""Studies: the same bits on any number of ranks, restarted or not; what goes wrong, told at once."""

from __future__ import annotations

import re

import numpy as np
import pytest
import studies
from mpi4py import MPI
from studies import Watch, outcome, study

from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.surrogate import engine, trainer
from hpckit.surrogate import surrogate as surrogates
from hpckit.surrogate.buffers import FIFO, FIRO, Epochs, Reservoir
from hpckit.surrogate.schedule import Free, Lockstep

CASES = {
    "reservoir": {},
    "fifo": {"buffer": FIFO(30), "schedule": Lockstep(8)},
    "firo": {"buffer": FIRO(40, threshold=20), "schedule": Lockstep(9)},
    "epochs": {"buffer": Epochs(), "simulations": 7},
    "initial": {"view": "initial"},
    "pairs": {"view": "pairs:2"},
    "window": {"view": "window:3", "buffer": FIRO(40, threshold=20), "schedule": Lockstep(16)},
    "finite": {"simulations": 9, "steps": 1000},
    "sobol": {"sampler": "sobol", "ranges": [[0, 2], [1, 3], [0, 1], [0, 36], [-3, 0]]},
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def linear(monkeypatch):
    """Studies train an engine that any number of trainers have."""
    monkeypatch.setattr(trainer.engine, "make", studies.make)
    monkeypatch.setattr(surrogates.engine, "load", studies.load)
    assert engine.load is studies.load


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
        assert result.history.losses[-1] < result.history.losses[0]
    assert (result.surrogate is not None) == (comm.rank == 0)


@pytest.mark.parametrize("stop", [1, 10, 17])
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
            study(pair, folder=folder, **changes).run(each=Watch(9))
        again = Watch()
        resumed = study(pair, folder=folder, **changes).run(each=again, resume=True)
        assert outcome(resumed, again) == outcome(expected, reference)
    pair.Free()
    left = [rank.left for rank in result.trainers]
    assert sum(left) == 0 if simulations is None else max(left) > min(left) == 0
