"""What a rank's seconds go into: every moment belongs to one kind of work."""

from __future__ import annotations

import time


class Clock:
    """Seconds of each kind of work so far: `turn` ends one and begins another.

    ::

        before = clock.turn("waiting")
        ...
        clock.turn(before)
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._since = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def turn(self, kind: str) -> str:
        """From now on this kind of work is done; returns the one until now."""
        now = time.perf_counter()
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
