"""Dry runs ask our models, whose modules name MPI's types; they do so without starting MPI, or where there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class _Nothing(ModuleType):
    """Stands for `mpi4py.MPI` and whatever is in it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name)

    def __call__(self, *_: Any, **__: Any) -> Any:
        return _Nothing("result")


@contextmanager
def offline() -> Iterator[None]:
    """Import modules of hpckit without MPI; they are forgotten at the end, unless MPI was there anyhow."""
    if "mpi4py.MPI" in sys.modules:
        yield
        return
    before = set(sys.modules)
    sys.modules["mpi4py.MPI"] = _Nothing("MPI")
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n not in before and n.partition(".")[0] in ("hpckit", "mpi4py")]:
            del sys.modules[name]
