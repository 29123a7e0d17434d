"""What importing costs: nothing heavy is loaded before it is needed."""

import pkgutil

import pytest

import hpckit

HEAVY = {"numba", "llvmlite", "h5py", "matplotlib", "petsc4py", "sklearn", "scipy", "torch"}
MODULES = [module.name for module in pkgutil.walk_packages(hpckit.__path__, "hpckit.")]


@pytest.fixture
def python(mpirun):
    """`python(code)`: the words that a fresh process prints."""

    def python(code):
        result = mpirun(None, "-c", code)
        assert result.returncode == 0, result.stdout
        return result.stdout.split()

    return python


def test_import_hpckit_is_fast_and_starts_nothing(python):
    code = "import sys, time; t = time.process_time(); import hpckit; "
    code += "print(time.process_time() - t, *sys.modules)"
    seconds, *loaded = min((python(code) for _ in range(5)), key=lambda words: float(words[0]))
    assert float(seconds) < 0.05
    assert not (HEAVY | {"mpi4py", "numpy"}) & set(loaded)


def test_no_module_loads_what_it_may_not_need(python):
    heavy = {"hpckit.comm.moves", "hpckit.cluster.estimators", "hpckit.io.geotiff"}
    heavy |= {name for name in MODULES if "kernels" in name}
    heavy |= {name for name in MODULES if name.startswith(("hpckit.ptx.on_", "hpckit.ptx.words"))}
    heavy |= {"hpckit.ptx.compiler"}
    heavy |= {name for name in MODULES if ".surrogate.models." in name or ".torch_" in name}
    names = ", ".join(name for name in MODULES if name not in heavy)
    loaded = python(f"import sys, {names}; print(*sys.modules)")
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize(
    "code",
    ["from hpckit import Grid", "import hpckit; hpckit.Halo", "from hpckit import allreduce"],
)
def test_without_an_mpi_library_one_line_says_what_to_install(mpirun, code):
    result = mpirun(None, "-c", code, MPI4PY_LIBMPI="/nonexistent")
    lines = result.stdout.splitlines()
    assert result.returncode == 1
    assert ".[mpich]" in lines[-1]
    assert len(lines) < 12  # with where it was imported


@pytest.mark.parametrize("program", ["halo", "allreduce", "kmedoids", "doctor"])
def test_programs_without_an_mpi_library(mpirun, program):
    result = mpirun(None, "-m", f"hpckit.apps.{program}", MPI4PY_LIBMPI="/nonexistent")
    assert result.returncode == 2
    line = result.stdout.splitlines()[-1]
    assert line.startswith(f"hpckit.apps.{program}: no MPI library was found")
    assert ".[mpich]" in line
