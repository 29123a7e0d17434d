"""Fail together: if one rank fails, all raise the same error, naming ranks and causes."""

from __future__ import annotations

import hashlib
import math
import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpi4py import MPI


class HpckitError(Exception):
    """Whatever hpckit itself raises; a program that does not catch it ends with `exit_code`.

    ::

        try:
            Halo(grid, fields=[u], method="shared")
        except HpckitError as error:  # on all ranks
            print(error)
    """

    exit_code = 1


class ConfigError(HpckitError, ValueError):
    """The user asked for the impossible: arguments, case file or input are wrong.

    ::

        if n < 1:
            raise ConfigError(f"n = {n} must be at least 1")
    """

    exit_code = 2


class Checkpointed(HpckitError):
    """The run was stopped, its state saved: run it again (75 is EX_TEMPFAIL).

    ::

        if signalled:
            raise Checkpointed("stopped at step 100: run again with --resume")
    """

    exit_code = 75


class HpckitValueError(HpckitError, ValueError):
    """All ranks that failed met a `ValueError`, but none of ours."""


class HpckitTypeError(HpckitError, TypeError):
    """All ranks that failed met a `TypeError`."""


class HpckitOSError(HpckitError, OSError):
    """All ranks that failed met an `OSError`."""


class HpckitMemoryError(HpckitError, MemoryError):
    """All ranks that failed met a `MemoryError`."""


_BY_EXIT_CODE: dict[int, type[HpckitError]] = {
    c.exit_code: c for c in (HpckitError, ConfigError, Checkpointed)
}
_BUILT_IN: dict[str, type[HpckitError]] = {
    "ValueError": HpckitValueError,
    "TypeError": HpckitTypeError,
    "OSError": HpckitOSError,
    "MemoryError": HpckitMemoryError,
}


def agree(comm: MPI.Intracomm, error: BaseException | None) -> None:
    """Raise on all ranks if any rank failed (collective).

    ::

        error = None if path.exists() else ConfigError(f"there is no file {path}")
        agree(comm, error)

    One allreduce of a flag when all is well. Else all ranks raise the same `HpckitError`: a
    `ConfigError` or `Checkpointed` when every cause is one, and a `ValueError`, `TypeError`,
    `OSError` or `MemoryError` too when every cause is one and none is ours, so that it is caught as
    on one rank. `error` is chained to it where it came from.
    """
    from mpi4py import MPI

    failed = array("i", [error is not None])
    comm.Allreduce(MPI.IN_PLACE, failed, op=MPI.MAX)
    if not failed[0]:
        return
    causes = comm.allgather(None if error is None else (cause(error), *_kind(error)))
    kinds = {each[1:] for each in causes if each}
    kind = _joint(*kinds.pop()) if len(kinds) == 1 else HpckitError
    raise kind(_summary([each and each[0] for each in causes])) from error


@contextmanager
def together(comm: MPI.Intracomm) -> Iterator[None]:
    """Run a block that may fail on some ranks, then `agree` (collective).

    ::

        with together(comm):
            rows = np.loadtxt(f"part-{comm.rank}.txt")

    The block itself must not communicate: a rank that fails in it skips the rest. Raises
    `ConfigError` where `comm` is no communicator of one group of ranks, or was freed.
    """
    check_comm(comm)
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    agree(comm, error)


def check_comm(comm: Any) -> None:
    """`ConfigError` unless it is a communicator within one group of ranks, and alive."""
    from mpi4py import MPI

    if not isinstance(comm, MPI.Comm):
        raise ConfigError(
            f"comm must be an mpi4py communicator such as MPI.COMM_WORLD, got {type(comm).__name__}"
        )
    if comm == MPI.COMM_NULL:
        raise ConfigError(
            "comm is MPI.COMM_NULL: it was freed, or this rank is in no part of a Split"
        )
    if comm.is_inter:
        raise ConfigError(
            "comm is an intercommunicator, between two groups of ranks: use comm.Merge()"
        )


def same(comm: MPI.Intracomm, what: str, value: object) -> None:
    """Raise `ConfigError` on all ranks unless `value` is equal on all of them (collective).

    Compared are the texts that `repr` gives; of arrays, however large, what is in them.
    """
    from mpi4py import MPI

    text = _repr(value)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=14).digest()
    halves = int.from_bytes(digest[:7]), int.from_bytes(digest[7:])
    extremes = array("q", [word for half in halves for word in (half, -half)])
    comm.Allreduce(MPI.IN_PLACE, extremes, op=MPI.MAX)
    if any(high != -low for high, low in (extremes[:2], extremes[2:])):
        raise ConfigError(
            f"{what} must be the same on all ranks, but {by_rank(comm.allgather(text))}"
        )


def all_come(comm: MPI.Intracomm, deadline: float) -> bool:
    """Whether all ranks get here within `deadline` seconds (collective); if not, `comm` is lost."""
    return completes(comm.Ibarrier(), deadline)


def completes(request: MPI.Request, deadline: float) -> bool:
    """Whether it does within `deadline` seconds, for which this rank sleeps."""
    limit = time.monotonic() + deadline
    while not request.Test():
        if time.monotonic() > limit:
            return False
        time.sleep(0.001)
    return True


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Make an `OSError` of a block that writes this file one line with its path.

    Raises `HpckitError`.
    """
    try:
        yield
    except OSError as error:
        raise HpckitError(f"cannot write {os.fspath(path)}: {error.strerror or error}") from error


def no_mpi(error: Exception) -> ConfigError | None:
    """What to say of an error in importing MPI; None where it is about something else."""
    reason = next(iter(str(error).splitlines()), "").strip()
    if not any(word in reason for word in ("MPI library", "libmpi", "mpi4py")):
        return None
    how = 'install one with pip install ".[mpich]", or load your site\'s module (docs/install.md)'
    return ConfigError(f"no MPI library was found ({reason}): {how}")


def ranges(ranks: Iterable[int]) -> str:
    """Sorted rank numbers with runs folded: `0-3, 7`."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def of_kind(exit_code: int, words: str) -> HpckitError:
    """The error that says this, of the class that has this exit code."""
    return _BY_EXIT_CODE.get(exit_code, HpckitError)(words)


def _kind(error: BaseException) -> tuple[int, str]:
    """Its exit code, and which of the built-in classes it is of."""
    built_in = (base.__name__ for base in type(error).__mro__ if base.__name__ in _BUILT_IN)
    return getattr(error, "exit_code", 1), next(built_in, "")


def _joint(exit_code: int, built_in: str) -> type[HpckitError]:
    """The class of an error whose causes are all of this kind."""
    ours = _BY_EXIT_CODE.get(exit_code, HpckitError)
    return _BUILT_IN.get(built_in, ours) if ours is HpckitError else ours


def _repr(value: Any) -> str:
    """Its repr, but of arrays and numbers of NumPy what is in them, of large ones a digest."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_repr, value))})"
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        if not value.shape:
            return repr(value.item())
        content = (
            hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()
            if value.nbytes > 64
            else value.tolist()
        )
        return f"array({content}, {value.shape}, {value.dtype})"
    return repr(value)


def cause(error: BaseException) -> str:
    """Our own errors speak for themselves; others need their type to be understood."""
    return str(error) if isinstance(error, HpckitError) else f"{type(error).__name__}: {error}"


def _summary(causes: list[str | None]) -> str:
    failed = [each for each in causes if each is not None]
    if len(failed) == len(causes) and len(set(failed)) == 1:
        return failed[0]
    return f"{len(failed)} of {len(causes)} ranks failed: {by_rank(causes)}"


def by_rank(texts: Sequence[str | None]) -> str:
    """`rank 1: this; ranks 0, 2-3: that`, equal texts grouped, `None` left out."""
    groups: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        if text is not None:
            groups.setdefault(text, []).append(rank)
    return "; ".join(
        f"rank{'s' if len(at) > 1 else ''} {ranges(at)}: {text}" for text, at in groups.items()
    )


def meet(comm: MPI.Intracomm) -> None:
    """A barrier that sleeps (collective): MPI's own would spin, on cores that others need."""
    all_come(comm, math.inf)
