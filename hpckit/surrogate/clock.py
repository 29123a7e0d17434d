"""What a rank's seconds go into: every moment belongs to one kind of work."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Seconds of each kind of work so far: `turn` ends one and begins another.

    ::

        before = clock.turn("waiting")
        ...
        clock.turn(before)

    now : the clock that it reads, s
    """

    def __init__(self, kind: str, now: Callable[[], float] = time.perf_counter) -> None:
        self._kind = kind
        self._now = now
        self._since = now()
        self._seconds: dict[str, float] = {}

    def turn(self, kind: str) -> str:
        """From now on this kind of work is done; returns the one until now."""
        now = self._now()
        before = self._kind
        self._seconds[before] = self._seconds.get(before, 0.0) + now - self._since
        self._kind = kind
        self._since = now
        return before

    def move(self, seconds: float, kind: str) -> None:
        """So many of the seconds since the last turn were of this kind, not of what it began."""
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds
        self._since += seconds

    @property
    def seconds(self) -> dict[str, float]:
        """Those of each kind until now."""
        self.turn(self._kind)
        return dict(self._seconds)
