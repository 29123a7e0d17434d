"""A halo exchange that is bound to its arrays, and made many times."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hpckit.errors import HpckitError

DOING = "a halo exchange"  # in errors
TAGS = 8  # of one halo, beginning with the one that methods are given
MEETING = TAGS - 1  # the one by which ranks meet, beyond those of the methods


class NotBegun(HpckitError):
    """Nothing was begun, so there is nothing to wait for, and `start` may be tried again."""


def nothing() -> None:
    pass


class Exchange(NamedTuple):
    """An exchange of certain arrays: its two halves, and both in one call.

    These are functions rather than methods, which cost the attribute look-ups of a call each.
    After an error in any of them, `wait` goes on with what is left to do.

    poll : do what can be done of `wait` without blocking; whether that was all
    owner : has the buffers, requests and communicators that these use, for as long as this lives
    settle : the host waits until the ghosts that its method filled last are filled; without it
        they are when `wait` returns
    """

    start: Callable[[], object]
    wait: Callable[[], object]
    call: Callable[[], object]
    poll: Callable[[], bool]
    owner: object
    settle: Callable[[], object]

    @classmethod
    def of(
        cls,
        start: Callable[[], object],
        wait: Callable[[], object],
        poll: Callable[[], bool],
        owner: object,
        settle: Callable[[], object] = nothing,
    ) -> Exchange:
        """With a `call` that is `start` and `wait`."""

        def call() -> None:
            start()
            wait()

        return cls(start, wait, call, poll, owner, settle)


def _yes() -> bool:
    return True


class Step(NamedTuple):
    """A part of an exchange, and whether it would not block now."""

    do: Callable[[], object]
    is_ready: Callable[[], bool] = _yes


def run_steps(left: list[Step], until: int) -> None:
    """Do steps until so many are left; one that fails is still among them."""
    while len(left) > until:
        left[0].do()
        del left[0]


def poll_steps(left: list[Step], over: Callable[[], bool]) -> bool:
    """Do what can be done without blocking; whether that, and the device's part, is all."""
    while left:
        if not left[0].is_ready():
            return False
        left[0].do()
        del left[0]
    return over()
