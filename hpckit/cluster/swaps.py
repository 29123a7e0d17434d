"""The two searches: swaps as soon as a block offers one, and the best of all swaps each time.

Both take each rank's proposal, let the best win, and do its swap on every rank. The last state is a
local optimum: no swap of a medoid with another candidate lowers the loss.
"""

from __future__ import annotations

import math

import numpy as np

from hpckit import native
from hpckit.cluster.progress import Progress
from hpckit.cluster.state import DistanceState, State
from hpckit.cluster.tables import BLOCK
from hpckit.comm import partition


def eager(state: State, progress: Progress, order: np.ndarray | None = None) -> None:
    """FasterPAM by blocks of candidates (needs distances by candidate).

    order : all candidates, as they are visited; None: in `visiting_order`

    All candidates of a block are judged against the same medoids, and the best swap is done; those
    that had offered one are judged again, until none is left. The search ends when a whole pass has
    found nothing. With blocks of one this is FasterPAM. A block of all is judged again as a whole,
    which is PAM.

    While blocks offer nothing, ranks agree only after more and more of them: the first block in
    which some rank found a swap counts, and what was judged beyond it is judged again, so that
    nothing depends on when they agree.
    """
    judge = _Judge(state, progress.block)
    order = visiting_order(state.distances.candidates) if order is None else order
    mine = (order >= state.distances.first) & (order < state.distances.first + state.distances.m)
    blocks = [slice(p, p + progress.block) for p in range(0, len(order), progress.block)]
    parts = [order[block][mine[block]] for block in blocks]
    while progress.goes_on:
        start = progress.visited % len(parts)
        ahead = parts[start : start + progress.ahead]
        block, count = judge.first_of(ahead)
        proposal = state.ranks.settle()
        progress.step(proposal.block if proposal else len(ahead), swapped=False)
        if proposal is None:
            continue
        count *= block == proposal.block  # those of a later block come again
        while proposal:
            state.swap(proposal)
            count = judge.again(count)
            proposal = state.ranks.settle() if len(parts) > 1 else None
        progress.step(1, swapped=True)


def best(state: DistanceState, progress: Progress) -> None:
    """PAM (needs distances by object, and one block of all candidates).

    The gains of all swaps are kept, k for each candidate, and a swap replaces only what the objects
    contribute whose nearest or second medoid changed: the same swaps as PAM at a fraction of its
    work (Resende & Werneck, Annals of Operations Research 150, 2007).
    """
    distances = state.distances
    kernels = distances.kernels("pam")
    k, m = state.k, distances.m
    shift = np.empty((0, 0))
    with state.ranks.together():  # there may be no room for it
        shift = distances.sums(k, m)
    gain, lowest, slots = distances.sums(m), np.empty(m), np.empty(m)
    state.near_was[:] = (
        state.near
    )  # no object has contributed yet: as if its medoids were at distance 0
    changed, near_was, dn_was, ds_was = map(
        native.address, (state.changed, state.near_was, state.dn_was, state.ds_was)
    )
    now = [*map(native.address, (state.near, state.dn, state.ds, state.weights, gain, shift))]
    choice = [*map(native.address, (gain, shift, state.removal))]
    proposal_at = [*map(native.address, (state.taken, lowest, slots, state.ranks.proposal))]
    count = state.n
    while progress.goes_on:
        for p, rows in distances.pieces(state.changed[:count]):
            was = changed + 8 * p, near_was + 4 * p, dn_was + 4 * p, ds_was + 4 * p
            kernels.update(*rows.at, distances.scale, *was, len(rows.places), m, *now)
        kernels.best_swap(*choice, k, m, distances.first, *proposal_at)
        proposal = state.ranks.settle()
        count = state.swap(proposal) if proposal else 0
        progress.step(1, swapped=proposal is not None)


def visiting_order(n: int) -> np.ndarray:
    """All candidates, (n,) int64, in golden steps: each block is spread over all ranks."""
    step = round(n * (math.sqrt(5) - 1) / 2)
    while math.gcd(step, n) > 1:
        step += 1
    return np.arange(n) * step % n


class _Judge:
    """Evaluates candidates of this rank on all its threads, and puts its proposal."""

    def __init__(self, state: State, block: int) -> None:
        self._distances = state.distances
        self._ranks = state.ranks
        # Kernels know its arrays by address, and threads outlive a search that is interrupted.
        self._state = state
        threads = self._ranks.threads
        self._evaluate, self._objects = state.evaluation()
        self._todo = np.empty(
            (2, min(block, state.distances.m)), np.int64
        )  # candidates, and the places of their rows
        self._todo_at = [*map(native.address, self._todo)]
        self._proposals = self._ranks.proposal[None] if threads == 1 else np.empty((threads, BLOCK))
        after, affected = (
            state.sums(threads, 2 * state.k),
            np.empty((threads, 4 * (state.n + 5)), np.int64),
        )  # scratch
        self._scratch = after, affected, self._proposals
        self._scratch_at = [
            [native.address(each[thread]) for each in self._scratch] for thread in range(threads)
        ]

    def first_of(self, blocks: list[np.ndarray]) -> tuple[int, int]:
        """The first block of those with candidates that lower the loss, and how many, if any."""
        for block, candidates in enumerate(blocks):
            if count := self._first(candidates):
                self._ranks.proposal[BLOCK] = block
                return block, count
        return 0, 0

    def _first(self, candidates: np.ndarray) -> int:
        """How many of them would lower the loss."""
        count = len(candidates)
        rows = self._distances.rows(candidates)
        self._todo[0, :count], self._todo[1, :count] = candidates, rows.places
        self._rows = rows  # keeps the table alive
        self._table_at = rows.at[:2]
        return self._judge(count)

    def again(self, count: int) -> int:
        """The same for the first `count` of those that would have the last time."""
        self._ranks.proposal[BLOCK] = 0
        return self._judge(count)

    def _judge(self, count: int) -> int:
        if self._ranks.threads == 1:
            return self._part(0, 0, count)
        starts = partition.starts(count, self._ranks.threads)
        kept = self._ranks.each(lambda thread: self._part(thread, *starts[thread : thread + 2]))
        self._ranks.proposal[:BLOCK] = min(self._proposals.tolist(), key=_merit)
        ends = 0
        for start, many in zip(starts, kept, strict=False):
            self._todo[:, ends : ends + many] = self._todo[:, start : start + many]
            ends += many
        return ends

    def _part(self, thread: int, start: int, stop: int) -> int:
        candidates, places = self._todo_at
        todo = candidates + 8 * start, places + 8 * start, stop - start
        return self._evaluate(*self._table_at, *todo, *self._objects, *self._scratch_at[thread])


def _merit(proposal: list[float]) -> tuple[bool, float, float]:
    change, candidate, _ = proposal
    return candidate < 0, change, candidate
