"""How much to compress each layer: the fewest bytes under one bound on the whole error.

L-GreCo (Markov, Alimohammadi, Frantar & Alistarh, MLSys 2024): errors and bytes are measured for
each layer and candidate, and dynamic programming over the layers finds the cheapest choice whose
errors add up to no more than the error of one compression used for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from mpi4py import MPI
from numpy.typing import ArrayLike

from hpckit.collectives.allreduce import Allreduce
from hpckit.collectives.arguments import check_numbers
from hpckit.errors import ConfigError, HpckitError, same, together
from hpckit.lossy.compression import Compression, twoshot_bytes

_ROUNDING = 1e-12  # errors are sums of many


def cheapest(costs: ArrayLike, errors: ArrayLike, bound: float, states: int = 10_000) -> list[int]:
    """One candidate for each layer: errors add up to `bound` at most, costs to the least.

    costs, errors : (layers, candidates), 0 and above; infinite errors are never chosen
    states : partial choices that are followed. The result is the best of all while no more of them
        are worth it; beyond that, of those whose errors differ by less than bound / states the
        cheapest is followed.

    Raises `ConfigError` where no choice keeps the bound.
    """
    costs, errors = np.asarray(costs, float), np.asarray(errors, float)
    if costs.ndim != 2 or costs.shape != errors.shape or not costs.shape[1]:
        raise ConfigError(
            f"costs {costs.shape} and errors {errors.shape} must both be of (layers, candidates)"
        )
    to_come = np.append(np.cumsum(errors.min(axis=1)[::-1])[::-1], 0.0)
    limits = bound * (1 + _ROUNDING) - to_come[1:]
    cost, error, kept = np.zeros(1), np.zeros(1), []
    for more_cost, more_error, limit in zip(costs, errors, limits, strict=True):
        cost = np.add.outer(cost, more_cost).ravel()
        error = np.add.outer(error, more_error).ravel()
        kept.append(_worth_it(cost, error, limit, bound, states))
        cost, error = cost[kept[-1]], error[kept[-1]]
    if not cost.size:
        raise ConfigError(
            f"the least error of all layers together is {to_come[0]:g}, above the bound {bound:g}"
        )
    chosen, at = [], 0  # the cheapest of the last layer's, and what it came from
    for states_kept in reversed(kept):
        at, candidate = divmod(int(states_kept[at]), costs.shape[1])
        chosen.append(candidate)
    return chosen[::-1]


def _worth_it(
    cost: np.ndarray, error: np.ndarray, limit: float, bound: float, states: int
) -> np.ndarray:
    """Indices of what is within the limit and errs less than all cheaper ones; by rising cost."""
    order = np.lexsort((error, cost))
    order = order[error[order] <= limit]
    before = np.minimum.accumulate(np.append(np.inf, error[order]))[:-1]
    order = order[error[order] < before]
    if order.size > states:
        order = order[np.sort(np.unique(error[order] * states // bound, return_index=True)[1])]
    return order


class LayerWise:
    """Measures what compressions lose of layers' gradients, and chooses for each (collective).

    layers : their gradients, float32 or float64, same shapes on all ranks; each `measure` looks at
        what is in them then
    candidates : compressions; layers that a candidate cannot take go without it
    uniform : the candidate whose error, were it used for all layers, is the bound

    ::

        candidates = [PowerSGD(1), PowerSGD(2), PowerSGD(4), PowerSGD(8)]
        layerwise = LayerWise(comm, gradients, candidates, uniform=PowerSGD(4))
        layerwise.measure()  # after some steps, now and then
        chosen = layerwise.choose()
        plans = [Allreduce(comm, g, algorithm=a) for g, a in zip(gradients, chosen)]
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        layers: Sequence[np.ndarray],
        candidates: Sequence[Compression],
        uniform: Compression,
    ) -> None:
        with together(comm):
            for layer in layers:
                check_numbers(layer)
            if uniform not in candidates:
                raise ConfigError(
                    f"uniform={uniform!r} must be one of the candidates {list(candidates)}"
                )
            wrong = [each for each in candidates if not isinstance(each, Compression)]
            if wrong:
                raise ConfigError(f"candidate {wrong[0]!r} must be a compression, as TopK(0.01)")
        same(
            comm,
            "shapes, dtypes and candidates",
            [
                [(g.shape, g.dtype.str) for g in layers],
                [candidate.name for candidate in candidates],
                uniform.name,
            ],
        )
        self._comm = comm
        self._layers = layers
        self._candidates: list[Compression | None] = [None, *candidates]
        self._uniform = self._candidates.index(uniform)
        costs = [[_sent_bytes(how, g, comm.size) for how in self._candidates] for g in layers]
        self._costs = np.array(costs)
        self._errors = np.zeros(self._costs.shape)
        self._measured = 0

    def measure(self) -> None:
        """Add the squared norms of what each candidate loses of the present gradients."""
        self._measured += 1
        for errors, gradient in zip(self._errors, self._layers, strict=True):
            errors += [0.0 if how is None else _lost(how, gradient) for how in self._candidates]

    def state(self) -> tuple[np.ndarray, int]:
        """The measurements since the last choice: errors (layers, candidates), and how many."""
        return self._errors.copy(), self._measured

    def restore(self, state: tuple[np.ndarray, int]) -> None:
        """Go on with these."""
        self._errors[:], self._measured = state

    def choose(self) -> list[Compression | Literal["auto"]]:
        """For each layer what to pass as `algorithm`, by all measurements since the last choice."""
        if not self._measured:
            raise HpckitError(
                "nothing was measured since the last choice: call measure() when there are "
                "gradients"
            )
        errors = self._comm.allreduce(self._errors)
        self._errors[:], self._measured = 0, 0
        uniform = errors[:, self._uniform]
        bound = float(uniform[np.isfinite(uniform)].sum())
        if np.isnan(errors).any():
            raise HpckitError(
                "the gradients that were measured are not finite: measure after another step"
            )
        return [self._candidates[i] or "auto" for i in cheapest(self._costs, errors, bound)]


def _sent_bytes(how: Compression | None, gradient: np.ndarray, ranks: int) -> int:
    if how is None:
        return twoshot_bytes(gradient.size, ranks, gradient.itemsize)
    return how.sent_bytes(gradient, ranks)


def _lost(how: Compression, gradient: np.ndarray) -> float:
    """Squared norm of what a call loses; infinite where impossible, NaN for gradients with NaN."""
    result = np.empty(gradient.shape, gradient.dtype)
    try:
        Allreduce(MPI.COMM_SELF, gradient, out=result, algorithm=how)()
    except ConfigError:
        return np.inf
    if not np.isfinite(result).all():  # too large for this form, if for nothing else
        return np.inf if np.isfinite(gradient).all() else np.nan
    with np.errstate(over="ignore"):
        return float(np.square(result - gradient, dtype=float).sum())
