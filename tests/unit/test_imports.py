"""What importing costs: nothing heavy is loaded before it is needed."""

import pkgutil
import subprocess
import sys

import hpckit

HEAVY = {"numba", "llvmlite", "h5py", "matplotlib", "petsc4py"}
MODULES = [module.name for module in pkgutil.walk_packages(hpckit.__path__, "hpckit.")]


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_hpckit_is_fast_and_starts_nothing():
    code = "import sys, time; t = time.perf_counter(); import hpckit; print(time.perf_counter() - t, *sys.modules)"
    seconds, *loaded = min((_python(code).split() for _ in range(5)), key=lambda words: float(words[0]))
    assert float(seconds) < 0.05
    assert not (HEAVY | {"mpi4py", "numpy"}) & set(loaded)


def test_no_module_loads_what_it_may_not_need():
    kernels = {"hpckit.comm.moves"} | {name for name in MODULES if name.endswith(".kernels")}
    names = ", ".join(name for name in MODULES if name not in kernels)
    loaded = _python(f"import sys, {names}; print(*sys.modules)").split()
    assert not HEAVY & set(loaded)
