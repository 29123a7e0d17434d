"""Batches for a loop of one's own in torch: a dataset that goes on where it was."""

import io

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hpckit.errors import ConfigError
from hpckit.surrogate import FIFO, Box, split

pytestmark = pytest.mark.mpi(min_size=2)
STEPS = 3


def program(comm, train, **loading):
    options = {"batch": 4, "buffer": FIFO(20), "simulations": 8}
    with split(comm, Box(key=(0.0, 1.0)), {"u": (2,)}, STEPS, **options) as role:
        if role.trains:
            dataset = role.dataset()
            return train(dataset, DataLoader(dataset, batch_size=None, **loading))
        for number, _ in role.simulations():
            for step in range(STEPS):
                if not role.send(step, {"u": [number, step]}):
                    break
    return None


def found(y):
    return [tuple(row) for row in y.tolist()]


def test_a_loader_gives_all_steps_also_after_a_restart(comm):
    saved = io.BytesIO()

    def first(dataset, loader):
        x, y = next(iter(loader))
        assert x.dtype == y.dtype == torch.float32 and x.shape == (4, 2)
        torch.save(dataset.state_dict(), saved)
        return found(y)

    def second(dataset, loader):
        saved.seek(0)
        dataset.load_state_dict(torch.load(saved, weights_only=True))
        return [row for _, y in loader for row in found(y)]

    before, after = program(comm, first), program(comm, second)
    if comm.rank == 0:
        expected = [(simulation, step) for simulation in range(8) for step in range(STEPS)]
        assert sorted(before + after) == expected


def test_workers_are_refused(comm):
    def train(dataset, loader):
        return [np.asarray(y) for _, y in loader]

    with pytest.raises(ConfigError, match="DataLoader with num_workers=0"):
        program(comm, train, num_workers=1)
