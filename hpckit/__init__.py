"""hpckit: computing with MPI from Python.

This is the map of the package. Names resolve at first use (PEP 562), so that `import hpckit` starts
no MPI::

    from hpckit import Grid, Halo
"""
# ruff: noqa: F401  (the imports under TYPE_CHECKING tell editors what _MAP tells Python)

from __future__ import annotations

import importlib

# Type checkers know this name; importing typing for it would take most of our import's time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hpckit.abort import abort_on_exception
    from hpckit.accelerate.methods import accelerated as accelerate
    from hpckit.cluster import (
        alternate,
        clara,
        clarans,
        dynmsc,
        fastermsc,
        fasterpam,
        medoid_silhouette,
        onebatch,
        pam,
        silhouette,
    )
    from hpckit.cluster.estimators import DynMSC, KMedoids
    from hpckit.collectives import Allreduce, allreduce, ring_map
    from hpckit.comm.grid import Grid
    from hpckit.comm.places import device
    from hpckit.comm.strided import StridedBlock
    from hpckit.errors import Checkpointed, ConfigError, HpckitError, agree, together
    from hpckit.halo import Halo
    from hpckit.io.checkpoint import Checkpoint
    from hpckit.io.fields import FieldFile
    from hpckit.io.input import read_field
    from hpckit.io.results import Results
    from hpckit.log import get_logger, progress
    from hpckit.trace import span

_MAP = {
    "Allreduce": "hpckit.collectives",
    "Checkpoint": "hpckit.io.checkpoint",
    "Checkpointed": "hpckit.errors",
    "ConfigError": "hpckit.errors",
    "DynMSC": "hpckit.cluster.estimators",
    "FieldFile": "hpckit.io.fields",
    "Grid": "hpckit.comm.grid",
    "Halo": "hpckit.halo",
    "HpckitError": "hpckit.errors",
    "KMedoids": "hpckit.cluster.estimators",
    "Results": "hpckit.io.results",
    "StridedBlock": "hpckit.comm.strided",
    "abort_on_exception": "hpckit.abort",
    "accelerate": "hpckit.accelerate",
    "agree": "hpckit.errors",
    "allreduce": "hpckit.collectives",
    "alternate": "hpckit.cluster",
    "clara": "hpckit.cluster",
    "clarans": "hpckit.cluster",
    "device": "hpckit.comm.places",
    "dynmsc": "hpckit.cluster",
    "fastermsc": "hpckit.cluster",
    "fasterpam": "hpckit.cluster",
    "get_logger": "hpckit.log",
    "medoid_silhouette": "hpckit.cluster",
    "onebatch": "hpckit.cluster",
    "pam": "hpckit.cluster",
    "progress": "hpckit.log",
    "read_field": "hpckit.io.input",
    "ring_map": "hpckit.collectives",
    "silhouette": "hpckit.cluster",
    "span": "hpckit.trace",
    "together": "hpckit.errors",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _MAP:
        raise AttributeError(f"module 'hpckit' has no attribute {name!r}; it has {', '.join(_MAP)}")
    try:
        return getattr(importlib.import_module(_MAP[name]), name)
    except (ImportError, RuntimeError) as error:
        from hpckit.errors import no_mpi

        if ours := no_mpi(error):
            raise ours from None  # mpi4py's own words fill a screen
        raise


def _version() -> str:
    """As the installed package says; asked for seldom, as it takes longer than all of the above."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hpckit")
    except PackageNotFoundError:
        return "0+source"  # no metadata beside a bare copy of the sources


def __dir__() -> list[str]:
    """What `help(hpckit)` shows: without scikit-learn, all but the names that need it."""
    from importlib.util import find_spec

    absent = None if find_spec("sklearn") else "hpckit.cluster.estimators"
    return sorted(
        [*globals(), "__version__", *(name for name, module in _MAP.items() if module != absent)]
    )
