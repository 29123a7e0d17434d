"""One line that ends a script's job when one of its ranks fails: `hpckit.abort_on_exception(comm)`.

Python prints the error of such a rank and then waits in `MPI_Finalize` for the others, who wait for
it: the job hangs until its time limit. Programs of `hpckit.apps` need nothing, they end together
anyhow.
"""

from __future__ import annotations

import atexit
import builtins
import sys
import threading
from collections.abc import Callable
from functools import partial
from opcode import opname
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from hpckit.errors import ConfigError, all_come, ranges

if TYPE_CHECKING:
    from mpi4py import MPI

TIMEOUT = 5.0  # seconds that a failing rank waits for the others to fail too, then it ends the job

_job: _Job | None = None


def abort_on_exception(comm: MPI.Intracomm) -> None:
    """End the whole job as soon as a rank ends by an error (collective).

    ::

        from mpi4py import MPI
        import hpckit

        hpckit.abort_on_exception(MPI.COMM_WORLD)  # the first line of a script

    That is an exception that nobody catches, in the main thread or another, or `sys.exit` with
    anything but 0. Its traceback is printed with the rank; where all ranks fail within a few
    seconds, once for each different error, and the job ends by itself. The exit code is 1, that of
    `sys.exit`, or 130 after Ctrl-C. Nothing changes for a script that ends well, on one rank, in an
    interactive session, or for exceptions that are caught. `raise SystemExit(1)` goes unnoticed:
    write `sys.exit(1)`.

    comm : all ranks of the job, as a rule `MPI.COMM_WORLD`; raises `ConfigError` where it connects
        two groups
    """
    global _job
    if comm.Is_inter():
        raise ConfigError(
            "abort_on_exception needs the communicator of all ranks, not an inter-communicator"
        )
    if comm.size > 1 and _job is None:
        _job = _Job(comm)
        _job.install()


class _Job:
    def __init__(self, comm: MPI.Intracomm) -> None:
        from mpi4py import MPI

        self._mpi = MPI
        self._apart = comm.Dup()  # where failing ranks meet: nothing else is ever sent there
        self._whole = comm.size == MPI.COMM_WORLD.size
        self._main = _outermost()
        self._leaving: SystemExit | None = None

    def install(self) -> None:
        """Put ourselves before what handles errors now."""
        sys.excepthook = partial(self._uncaught, sys.excepthook)
        threading.excepthook = partial(self._in_thread, threading.excepthook)
        if builtins.__dict__.get("exit") is not None:  # `python -S` has none
            builtins.exit = builtins.quit = self._exit  # pyright: ignore[reportAttributeAccessIssue]
        sys.exit = self._exit
        atexit.register(self._at_exit)  # before MPI_Finalize, which mpi4py leaves to the very end

    def _uncaught(
        self,
        show: Callable[..., object],
        kind: type[BaseException],
        error: BaseException,
        at: TracebackType | None,
    ) -> None:
        if hasattr(sys, "ps1") or not self._alive():  # a session goes on after an error
            show(kind, error, at)
        else:
            code = 130 if isinstance(error, KeyboardInterrupt) else 1
            what = f"{kind.__name__}: {error}"
            self._end(what, partial(show, kind, error, at), code, together=self._whole)

    def _in_thread(self, show: Callable[..., object], args: Any) -> None:
        if args.exc_type is SystemExit or hasattr(sys, "ps1") or not self._alive():
            show(args)
        else:  # the main threads go on meanwhile, and would not meet
            self._end("", partial(show, args), 1, together=False)

    def _exit(self, status: Any = None, /) -> NoReturn:
        """`sys.exit` that remembers its exception, for `_at_exit`."""
        leaving = SystemExit(status)
        if threading.current_thread() is threading.main_thread():
            self._leaving = leaving
        raise leaving

    def _at_exit(self) -> None:
        error = self._leaving  # perhaps somebody caught it, and the script went on to its end
        if error is None or error.code in (None, 0) or _returned(self._main) or not self._alive():
            return
        code = error.code if isinstance(error.code, int) else 1
        self._end(f"sys.exit({error.code!r})", None, code & 0xFF or 1, together=self._whole)

    def _end(self, what: str, show: Callable[[], object] | None, code: int, together: bool) -> None:
        """Print the error; end the job, unless all ranks come here too and so end it themselves."""
        sys.stdout.flush()
        rank, size = self._apart.rank, self._apart.size
        if together and all_come(self._apart, TIMEOUT):
            everyone = self._apart.allgather(what)
            same = [other for other, theirs in enumerate(everyone) if theirs == what]
            if show and same[0] == rank:
                _print(f"rank{'s' * (len(same) > 1)} {ranges(same)} of {size} failed:", show)
            return
        why = "" if show else f" {what}"
        _print(f"rank {rank} of {size} failed, which ends the job:{why}", show)
        self._apart.Abort(code)

    def _alive(self) -> bool:
        return not self._mpi.Is_finalized()


def _print(line: str, show: Callable[[], object] | None) -> None:
    sys.stderr.write(f"{line}\n")
    if show:
        show()
    sys.stderr.flush()


def _outermost() -> FrameType:
    """The frame that all others of this thread were called from."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
    return frame


def _returned(frame: FrameType) -> bool:
    """Whether a frame came to its end, rather than being left by an exception."""
    return opname[frame.f_code.co_code[frame.f_lasti]].startswith("RETURN")
