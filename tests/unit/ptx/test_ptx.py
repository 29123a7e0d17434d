"""Kernels of devices: shipped as their sources say, lean, and right in the simulator."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from hpckit import native, ptx
from hpckit.errors import HpckitError
from hpckit.ptx import compiler, conventions

HERE = Path(__file__).parent
MOVES = "hpckit.comm.device_kernels"
KINDS = {"i8": "u64", "f8": "f64", "f4": "f32"}  # of arguments: in Python, in PTX
H100 = "sm_90"
MOST_REGISTERS = 40
MOST_INSTRUCTIONS = 90  # for each of the words that a thread copies
WORDS = 4  # of those
EXAMPLE = textwrap.dedent(ptx.__doc__.partition("say::\n")[2].partition("\nThe factory")[0])


@pytest.fixture(params=ptx.sources())
def module(request):
    return request.param


@pytest.fixture
def axpy(tmp_path, monkeypatch):
    """The kernel of the text of `hpckit.ptx`: its module."""
    (tmp_path / "axpy_kernels.py").write_text(EXAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("HPCKIT_CACHE", str(tmp_path / "cache"))
    yield "axpy_kernels"
    sys.modules.pop("axpy_kernels", None)
    native._texts.pop("axpy_kernels", None)


def paths() -> str:
    """Where processes of their own find what this one and these tests import."""
    return os.pathsep.join([*sys.path, str(HERE), str(HERE.parent / "comm")])


def of_a_wheel(name: str) -> str:
    """Where a file of the compiler's wheels is."""
    for wheel in (compiler.WHEEL, "nvidia-cuda-nvdisasm"):
        try:
            files = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            pytest.skip(f"needs {wheel}, which `make ptx` installs")
        for file in files:
            if file.name == name:
                return str(file.locate())
    raise AssertionError(f"no {name}")


def output(*command: object) -> str:
    result = subprocess.run(
        list(map(str, command)),
        check=False,
        text=True,
        env=os.environ | {"PYTHONPATH": paths()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_there_are_kernels():
    assert MOVES in ptx.sources()


def test_what_is_shipped_was_made_of_these_sources(module):
    found = re.search(r"^// sources: (\w+)$", ptx.file(module).read_text(), re.MULTILINE)
    assert found and found[1] == compiler.digest(module), "run `make ptx`"


def test_kernels_have_their_twins_names_and_arguments(module):
    text = ptx.text(module, ptx.OLDEST).decode()
    entries = re.findall(r"\.visible \.entry (\w+)\((.*?)\)", text, re.DOTALL)
    found = {name: re.findall(r"\.param \.(\w+)", arguments) for name, arguments in entries}
    twins = importlib.import_module(module).__exports__
    assert found == {
        name: [KINDS[kind] for kind in re.findall(r"\w+", text)[2:]]
        for name, (_, text) in twins.items()
    }


def test_nothing_is_fused_and_nothing_is_approximate(module):
    text = ptx.file(module).read_text()
    assert not re.search(r"\bfma\.|\.approx|\.ftz", text)


def test_drivers():
    assert ptx.text(MOVES, 12000) == ptx.text(MOVES, 13030)
    with pytest.raises(HpckitError, match=r"supports CUDA 11\.8, .* need 12\.0 or newer: update"):
        ptx.text(MOVES, 11080)


def test_compiled_again_it_is_the_same():
    of_a_wheel("ptxas")
    if f"// by: {compiler.made_by()}\n" not in ptx.file(MOVES).read_text():
        pytest.skip(f"made by other versions than {compiler.made_by()}")
    output(sys.executable, "-m", "hpckit.ptx.compiler", "--check")


def test_no_kernel_spills_registers(module, tmp_path):
    report = output(
        of_a_wheel("ptxas"), "-v", f"-arch={H100}", ptx.file(module), "-o", tmp_path / "cubin"
    )
    kernels = len(importlib.import_module(module).__exports__)
    assert report.count(" 0 bytes spill stores, 0 bytes spill loads") == kernels
    if module == MOVES:
        used = re.search(r"Used (\d+) registers", report)
        assert used and int(used[1]) <= MOST_REGISTERS


def test_moves_take_few_instructions(tmp_path):
    cubin = tmp_path / "cubin"
    output(of_a_wheel("ptxas"), f"-arch={H100}", ptx.file(MOVES), "-o", cubin)
    text = output(of_a_wheel("nvdisasm"), cubin)
    instructions = re.findall(r"/\*[0-9a-f]{4}\*/ +(?:@!?\w+ +)?([A-Z][\w.]*)", text)
    assert 0 < len([i for i in instructions if i != "NOP"]) <= MOST_INSTRUCTIONS * WORDS


def test_moves_in_the_simulator(mpirun):
    result = mpirun(None, HERE / "simulated.py", NUMBA_ENABLE_CUDASIM="1", PYTHONPATH=paths())
    assert result.returncode == 0 and "20 types" in result.stdout, result.stdout


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("comm/test_device_moves.py", "types or rows or pieces"),
        ("collectives/test_device_allreduce.py", "operations_and_types"),
        ("pde/test_device_backend.py", ""),
    ],
)
def test_what_is_shipped_does_what_its_twins_do(mpirun, file, tests):
    """Tests of devices, where kernels are those of the PTX."""
    if not shutil.which("cc"):
        pytest.skip("needs cc, for PTX as C")
    options = ["-p", "shipped", "--with-mpi", "-q", "-k", tests]
    result = mpirun(None, "-m", "pytest", *options, HERE.parent / file, PYTHONPATH=paths())
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout


def test_the_example_is_run_by_its_twin(axpy):
    y, x = np.arange(1000.0), np.linspace(0, 1, 1000)
    expected = y + 0.1 * x
    kernels, blocks = native.load(axpy), -(-y.size // conventions.THREADS)
    kernels.axpy(blocks, native.address(y), native.address(x), y.size, 0.1)
    np.testing.assert_array_equal(y, expected)


def test_the_example_is_compiled(axpy):
    of_a_wheel("ptxas")
    program = f"from hpckit.ptx.compiler import compiled; print(compiled({axpy!r}))"
    text = output(sys.executable, "-c", program)
    assert ".visible .entry axpy(" in text
    assert "mul.rn.f64" in text and "add.rn.f64" in text
