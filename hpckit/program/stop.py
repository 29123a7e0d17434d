"""Signals that ask a program to stop: noticed from its first line on, obeyed between two steps.

Batch systems send SIGTERM or SIGUSR1 before they end a job, people press Ctrl-C. A program asks
`StopSignal` between its steps, saves a checkpoint, and exits with 75, or with 130 after Ctrl-C.
While it gets ready and asks nothing yet (reading, compiling, or in a search that cannot be saved),
there is nothing to lose: a thread then ends it after `GRACE` seconds. A second Ctrl-C ends it at
once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from array import array
from typing import TYPE_CHECKING

from hpckit.errors import Checkpointed
from hpckit.program import STOP_SIGNALS

if TYPE_CHECKING:
    from mpi4py import MPI

GRACE = 10.0  # seconds from a signal to the end of a program that does not ask
_TWICE = 0.5  # seconds between two Ctrl-C: launchers may pass on one that the terminal sent us
_CTRL_C = 130  # the exit code of shells

_asked = 0  # the exit code that signals ask for
_obeyed = False  # somebody asks, or the end is near anyhow
_listening = False


class StopSignal:
    """Whether any rank was asked to stop; `requested` and `check` are collective.

    In a program signals were noticed since its start; elsewhere SIGTERM and SIGUSR1 are from now
    on.
    """

    def __init__(self, comm: MPI.Intracomm) -> None:
        global _asked
        self._comm = comm
        if not _listening:
            _asked = 0
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, _notice)

    def requested(self) -> bool:
        """Whether to save and stop: asked again and again between steps, the same on all ranks."""
        code = self._largest(self.wish())
        self.obey(code)
        return bool(code)  # what was agreed: `_asked` may have changed on this rank since

    def wish(self) -> int:
        """The exit code that this rank was asked for, 0: none (not collective).

        For a loop, which asks all ranks for the largest, and tells `obey`.
        """
        global _obeyed
        _obeyed = True
        return _asked

    def obey(self, code: int) -> None:
        """End with this code, if with any: the largest of all ranks' wishes."""
        global _asked
        _asked = max(_asked, code)

    def check(self) -> None:
        """Raise `Checkpointed` on all ranks if one was asked to stop, with nothing to save."""
        code = self._largest(_asked)
        self.obey(code)
        if code:
            raise Checkpointed("stopped, there was nothing to save: run it again")

    def finish(self) -> None:
        """Say that all is computed: what is left, such as pictures, is done in any case."""
        global _obeyed
        _obeyed = True

    def _largest(self, code: int) -> int:
        from mpi4py import MPI

        codes = array("i", [code])
        self._comm.Allreduce(MPI.IN_PLACE, codes, op=MPI.MAX)
        return codes[0]


def listen(comm: MPI.Intracomm, program: str) -> None:
    """Notice signals from now on, and those since the program's start; after MPI has started.

    MPICH replaces the handler of SIGUSR1 as it starts, and would swallow one.
    """
    global _listening
    for number in STOP_SIGNALS:
        signal.signal(number, _notice)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_insist, args=(reader, comm.rank, program), daemon=True).start()
    _listening = True
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def release() -> None:
    """Let signals do what they always do: for what needs no MPI and is over soon."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def leave() -> None:
    """Ignore what still comes while MPI and Python close: the exit code has said it."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def exit_code(error: BaseException) -> int:
    """That of a program which ends with this error."""
    code = getattr(error, "exit_code", 1)
    return _CTRL_C if code == Checkpointed.exit_code and _asked == _CTRL_C else code


def _notice(number: int, _: object) -> None:
    global _asked
    _asked = max(_asked, _CTRL_C if number == signal.SIGINT else Checkpointed.exit_code)


def _insist(reader: int, rank: int, program: str) -> None:
    """In a thread of its own, which signals reach while the main one is in a kernel or in MPI."""
    patience, interrupted = None, 0.0  # until the first signal there is nothing to do
    while True:
        wait = None if patience is None or _obeyed else max(patience - time.monotonic(), 0.0)
        if patience and not select.select([reader], [], [], wait)[0]:
            if not _obeyed:
                _end(
                    program,
                    _CTRL_C if interrupted else Checkpointed.exit_code,
                    "there was nothing to save",
                )
            continue
        number, now = os.read(reader, 1)[0], time.monotonic()
        if number not in STOP_SIGNALS:
            continue
        if number == signal.SIGINT:
            if interrupted and now > interrupted + _TWICE:
                _end(program, _CTRL_C, "interrupted twice, nothing more was saved")
            interrupted = interrupted or now
        patience = patience or now + GRACE + 0.5 * (rank > 0)  # one line is enough


def _end(program: str, code: int, why: str) -> None:
    """Launchers end the others; MPI_Abort would unload libraries that are in use, and crash."""
    sys.stderr.write(f"{program}: stopped at once, {why}\n")
    sys.stderr.flush()
    os._exit(code)
