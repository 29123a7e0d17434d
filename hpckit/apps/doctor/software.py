"""What is installed: MPI, packages, HDF5, kernels."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util

from hpckit import cache, native
from hpckit.machine.store import mpi_library

PACKAGES = ("mpi4py", "numpy", "numba", "h5py", "msgspec", "psutil", "matplotlib", "petsc4py")


def software() -> list[str]:
    """A line for each."""
    from mpi4py import MPI

    levels = {
        MPI.THREAD_SINGLE: "single",
        MPI.THREAD_FUNNELED: "funneled",
        MPI.THREAD_SERIALIZED: "serialized",
    }
    standard = ".".join(map(str, MPI.Get_version()))
    kept = [native.is_kept(source.module, **source.constants) for source in native.sources()]
    return [
        f"mpi       {mpi_library()}, standard {standard}, threads "
        f"{levels.get(MPI.Query_thread(), 'multiple')}",
        f"gpu       MPI, {cuda_hint()}: `python -m hpckit.apps.doctor --gpu` tries it",
        f"packages  {', '.join(f'{name} {_version(name)}' for name in PACKAGES)}",
        f"hdf5      {_hdf5()}",
        f"kernels   {sum(kept)} of {len(kept)} compiled for this machine, in {cache.home()}",
    ]


def cuda_hint() -> str:
    """What MPI says of itself: it may be wrong either way, and a wrong answer is a crash later."""
    from mpi4py import MPI

    try:
        query = ctypes.CDLL(MPI.__file__).MPIX_Query_cuda_support
    except (OSError, AttributeError):
        return "which does not say whether it is CUDA-aware"
    return f"which says that it is {'' if query() else 'not '}CUDA-aware"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "petsc4py" and importlib.util.find_spec("dolfinx_solver"):
            return "of dolfinx-solver"
        return "(none)"


def _hdf5() -> str:
    import h5py

    return (
        f"{h5py.version.hdf5_version}, "
        f"{'parallel' if h5py.get_config().mpi else 'serial: files are written by MPI-IO'}"
    )
