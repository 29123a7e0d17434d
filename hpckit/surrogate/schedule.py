"""How many new steps a trainer takes between two gradient steps."""

from __future__ import annotations

from typing import NamedTuple


class Lockstep(NamedTuple):
    """Exactly so many new steps per gradient step and trainer, whatever the ranks' speeds.

    ::

        Lockstep(16)  # with 64 samples per gradient step, each is drawn 4 times on average

    The same steps come to the same gradient steps on any number of solver ranks: a study gives the
    same weights, bit for bit. Fewer are taken where the buffer is full or no more are left.
    """

    samples: int = 16

    def enough(self, taken: int) -> bool:
        """Whether the gradient step may be taken after so many new steps."""
        return taken >= self.samples

    def waits(self, received: int, drawn: int) -> bool:
        """Whether to wait where no step has come, instead of training on what is there."""
        return True


class Free(NamedTuple):
    """Whatever has come: trainers and solvers run as fast as they can.

    ::

        Free(reuse=4)  # trainers wait where each sample has been drawn 4 times on average

    reuse : how often samples are drawn on average at most; None: any number of times
    """

    reuse: float | None = None

    def enough(self, taken: int) -> bool:
        return False

    def waits(self, received: int, drawn: int) -> bool:
        return self.reuse is not None and drawn > self.reuse * received


Schedule = Lockstep | Free
