"""Streams beside the user's, on which collectives run while his computes."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable

from hpckit.comm.device import Device, Event
from hpckit.machine.lifetime import leave

_idle: dict[str, list[int]] = defaultdict(list)  # by device: streams live as long as it does


class SideStream:
    """A stream of a device that nothing else uses while this lives.

    stream : the user's
    keep : what is used on it: lives until that is done

    number : its handle
    """

    def __init__(self, device: Device, stream: int, keep: object) -> None:
        idle = _idle[device.uuid]
        self.number = idle.pop() if idle else device.stream()
        self._device = device
        self._stream = stream
        self._ready = device.event()
        give_back = passed(device, self.number, keep, idle)
        weakref.finalize(self, leave, give_back).atexit = False

    def follow(self) -> None:
        """What is enqueued here from now on runs after all that is on the user's stream."""
        self._ready.record(self._stream)
        self._device.wait(self.number, self._ready)


def passed(
    device: Device, stream: int, keep: object, idle: list[int] | None = None
) -> Callable[[], bool]:
    """Whether a stream has done all that was on it at the first call; `keep` lives until then.

    idle : where its number goes then
    """
    events: list[Event] = []

    def is_passed() -> bool:
        if not events:
            events.append(device.event())
            events[0].record(stream)
        done = events[0].done()
        if done and idle is not None:
            idle.append(stream)
        return done

    is_passed.keep = keep  # pyright: ignore[reportFunctionMemberAccess]
    return is_passed
