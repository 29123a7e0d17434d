"""Fail together: if one rank fails, all ranks raise the same error, naming the ranks and their causes."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI


class HpckitError(Exception):
    """Whatever hpckit itself raises; a program that does not catch it ends with `exit_code`."""

    exit_code = 1


class ConfigError(HpckitError, ValueError):
    """The user asked for something impossible: the arguments, the case file or the input are wrong."""

    exit_code = 2


class Checkpointed(HpckitError):
    """The run was stopped after a checkpoint: run it again to go on (75 is EX_TEMPFAIL)."""

    exit_code = 75


class HpckitValueError(HpckitError, ValueError):
    """All ranks that failed met a `ValueError`, but none of ours."""


class HpckitTypeError(HpckitError, TypeError):
    """All ranks that failed met a `TypeError`."""


class HpckitOSError(HpckitError, OSError):
    """All ranks that failed met an `OSError`."""


class HpckitMemoryError(HpckitError, MemoryError):
    """All ranks that failed met a `MemoryError`."""


_BY_EXIT_CODE: dict[int, type[HpckitError]] = {c.exit_code: c for c in (HpckitError, ConfigError, Checkpointed)}
_BUILT_IN: dict[str, type[HpckitError]] = {
    "ValueError": HpckitValueError,
    "TypeError": HpckitTypeError,
    "OSError": HpckitOSError,
    "MemoryError": HpckitMemoryError,
}


def agree(comm: MPI.Intracomm, error: BaseException | None) -> None:
    """Raise on all ranks if any rank failed (collective).

    One allreduce of a flag when all is well. Else all ranks raise the same `HpckitError`: a `ConfigError` or
    `Checkpointed` when every cause is one, and a `ValueError`, `TypeError`, `OSError` or `MemoryError` too when every
    cause is one and none is ours, so that it is caught as on one rank. `error` is chained to it where it came from.
    """
    from mpi4py import MPI

    failed = array("i", [error is not None])
    comm.Allreduce(MPI.IN_PLACE, failed, op=MPI.MAX)
    if not failed[0]:
        return
    causes = comm.allgather(None if error is None else (_text(error), *_kind(error)))
    kinds = {cause[1:] for cause in causes if cause}
    kind = _joint(*kinds.pop()) if len(kinds) == 1 else HpckitError
    raise kind(_summary([cause and cause[0] for cause in causes])) from error


@contextmanager
def together(comm: MPI.Intracomm) -> Iterator[None]:
    """Run a block that may fail on some ranks, then `agree` (collective): `with together(comm): check(...)`.

    The block itself must not communicate: a rank that fails in it skips the rest.
    """
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    agree(comm, error)


def same(comm: MPI.Intracomm, what: str, value: object) -> None:
    """Raise `ConfigError` on all ranks unless `value`, compared by its repr, is equal on all of them (collective)."""
    from mpi4py import MPI

    text = repr(value)
    digest = zlib.crc32(text.encode())
    extremes = array("q", [digest, -digest])
    comm.Allreduce(MPI.IN_PLACE, extremes, op=MPI.MAX)
    if extremes[0] != -extremes[1]:
        raise ConfigError(f"{what} must be the same on all ranks, but {by_rank(comm.allgather(text))}")


def ranges(ranks: Iterable[int]) -> str:
    """Sorted rank numbers with runs folded: `0-3, 7`."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def _kind(error: BaseException) -> tuple[int, str]:
    """Its exit code, and which of the built-in classes it is of."""
    built_in = (base.__name__ for base in type(error).__mro__ if base.__name__ in _BUILT_IN)
    return getattr(error, "exit_code", 1), next(built_in, "")


def _joint(exit_code: int, built_in: str) -> type[HpckitError]:
    """The class of an error whose causes are all of this kind."""
    ours = _BY_EXIT_CODE.get(exit_code, HpckitError)
    return _BUILT_IN.get(built_in, ours) if ours is HpckitError else ours


def _text(error: BaseException) -> str:
    """Our own errors speak for themselves; others need their type to be understood."""
    return str(error) if isinstance(error, HpckitError) else f"{type(error).__name__}: {error}"


def _summary(causes: list[str | None]) -> str:
    failed = [cause for cause in causes if cause is not None]
    if len(failed) == len(causes) and len(set(failed)) == 1:
        return failed[0]
    return f"{len(failed)} of {len(causes)} ranks failed: {by_rank(causes)}"


def by_rank(texts: Sequence[str | None]) -> str:
    """`rank 1: this; ranks 0, 2-3: that`, equal texts grouped, `None` left out."""
    groups: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        if text is not None:
            groups.setdefault(text, []).append(rank)
    return "; ".join(f"rank{'s' if len(at) > 1 else ''} {ranges(at)}: {text}" for text, at in groups.items())
