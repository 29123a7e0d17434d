"""The cheapest choice per layer against brute force, and what is chosen for gradients."""

from itertools import product

import numpy as np
import pytest

from hpckit.collectives.allreduce import Allreduce
from hpckit.errors import ConfigError, HpckitError
from hpckit.lossy import PowerSGD, Quantised
from hpckit.lossy.lgreco import LayerWise, cheapest

FP16, INT8 = Quantised("fp16"), Quantised("int8")


def brute_force(costs, errors, bound):
    layers = range(len(costs))
    choices = product(range(costs.shape[1]), repeat=len(costs))
    return min(
        (
            sum(costs[i, c] for i, c in zip(layers, choice, strict=True))
            for choice in choices
            if kept(errors, choice, bound)
        ),
        default=None,
    )


def kept(errors, choice, bound):
    return sum(errors[i, c] for i, c in enumerate(choice)) <= bound * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(30))
def test_cheapest_equals_brute_force(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 6), rng.integers(1, 5)
    costs = rng.integers(1, 50, shape).astype(float)
    errors = rng.random(shape) * rng.choice([1, 100], (shape[0], 1))
    bound = errors.min(axis=1).sum() + rng.random() * np.ptp(errors, axis=1).sum()
    chosen = cheapest(costs, errors, bound)
    assert kept(errors, chosen, bound)
    assert costs[range(shape[0]), chosen].sum() == brute_force(costs, errors, bound)
    assert cheapest(costs, errors, errors[:, 0].sum())  # what one candidate for all needs is enough


def test_many_layers_keep_the_bound_and_beat_one_candidate_for_all():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1e3, 1e7, 60)
    ranks = np.array([1, 2, 4, 8, 16, 32])
    costs = sizes[:, None] ** 0.5 * ranks
    errors = (
        sizes[:, None]
        * rng.lognormal(0, 3, (60, 1))
        * ranks[None, :] ** -rng.uniform(0.2, 2, (60, 1))
    )
    bound = errors[:, 2].sum()
    few, many = (cheapest(costs, errors, bound, states) for states in (1000, 10_000))
    for chosen in (few, many):
        assert errors[range(60), chosen].sum() <= bound * (1 + 1e-12)
    assert costs[range(60), many].sum() < 0.9 * costs[:, 2].sum()
    assert costs[range(60), few].sum() < 1.01 * costs[range(60), many].sum()


def test_impossible_bound():
    with pytest.raises(
        ConfigError, match="the least error of all layers together is 3, above the bound 2"
    ):
        cheapest([[1, 2], [1, 2]], [[4, 1], [9, 2]], 2.0)
    with pytest.raises(ConfigError, match=r"must both be of \(layers, candidates\)"):
        cheapest([1, 2], [1, 2], 1.0)


@pytest.mark.mpi
def test_layers_that_compress_well_are_compressed_more(comm):
    rng = np.random.default_rng(comm.rank)
    low = np.random.default_rng(99).normal(size=(64, 1)) @ rng.normal(size=(1, 64))
    layers = [low, rng.normal(size=(64, 64)), rng.normal(size=7)]
    layerwise = LayerWise(comm, layers, [PowerSGD(rank) for rank in (1, 4, 16)], PowerSGD(4))
    layerwise.measure()
    chosen = layerwise.choose()
    if comm.size > 1:  # one rank sends nothing
        assert chosen[0] == PowerSGD(1)
        assert chosen[1] in (PowerSGD(4), PowerSGD(16))
    assert chosen[2] == "auto"  # no matrix
    assert len(set(comm.allgather(tuple(chosen)))) == 1
    for layer, how in zip(layers, chosen, strict=True):
        Allreduce(comm, layer, algorithm=how)()


@pytest.mark.mpi
def test_bad_candidates_and_gradients(comm):
    layers = [np.ones((4, 4))]
    with pytest.raises(ConfigError, match="must be one of the candidates"):
        LayerWise(comm, layers, [INT8], FP16)
    layers[0][0, 0] = np.nan
    layerwise = LayerWise(comm, layers, [INT8, FP16], FP16)
    with pytest.raises(HpckitError, match="nothing was measured"):
        layerwise.choose()
    layerwise.measure()
    with pytest.raises(HpckitError, match="not finite"):
        layerwise.choose()


@pytest.mark.mpi
def test_what_is_too_large_for_a_candidate_is_not_chosen(comm):
    layerwise = LayerWise(comm, [np.full((4, 4), 1e6), np.ones(4)], [FP16, INT8], INT8)
    layerwise.measure()
    assert layerwise.choose()[0] != FP16
