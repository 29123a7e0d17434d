"""Dry runs ask models whose modules name MPI's types: without starting MPI, or with none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Names(type):
    def __getattr__(cls, name: str) -> Any:
        """Whatever is asked for is there, a class: to be called, derived from, and a key."""
        if name.startswith("__"):
            raise AttributeError(name)
        value = _Names(name, (_Nothing,), {})
        setattr(cls, name, value)
        return value


class _Nothing(metaclass=_Names):
    """Stands for anything in `mpi4py.MPI`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(type(self), name)


class _Module(ModuleType):
    """Stands for `mpi4py.MPI` itself."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_Nothing, name)


@contextmanager
def offline() -> Iterator[None]:
    """Import modules of hpckit without MPI; they are forgotten at the end, unless it was there."""
    if "mpi4py.MPI" in sys.modules:
        yield
        return
    before = set(sys.modules)
    sys.modules["mpi4py.MPI"] = _Module("mpi4py.MPI")
    try:
        yield
    finally:
        for name in [
            n
            for n in sys.modules
            if n not in before and n.partition(".")[0] in ("hpckit", "mpi4py")
        ]:
            del sys.modules[name]
