"""NVIDIA's driver without a GPU, for tests: `stub_cuda.c` as `libcuda.so.1`, and what it counts.

A process has it where LD_LIBRARY_PATH leads to the folder of `build`. Its kernels are run by their
twins on the CPU.
"""

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from hpckit import native

DEVICE, OPENED, PINNED, REGISTERED = range(4)
_LAUNCHER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(ctypes.c_void_p)
)


def build(folder: Path) -> dict[str, str]:
    """Compile it into the folder; the environment by which other processes find it."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc)")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_suffix(".c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No such file" in done.stderr:
        pytest.skip(f"the C compiler has no headers: {done.stderr}")
    assert done.returncode == 0, done.stderr
    # Its addresses are among those of stand-ins, of which there are none then.
    return {"LD_LIBRARY_PATH": str(folder), "HPCKIT_STAND_IN_DEVICES": "0"}


class Stub:
    """The stub in this process. `modules` have the kernels that can be launched."""

    def __init__(self, *modules: str) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._library.stub_launcher.argtypes = [_LAUNCHER]
        self._modules = modules
        self.twins: dict[str, ctypes._CFuncPtr] = {}
        """more kernels"""
        self.launches: list[tuple[str, int, int]] = []
        """name, blocks and threads of each"""
        self._keep = _LAUNCHER(self._launch)
        self._library.stub_launcher(self._keep)

    def calls(self, function: str) -> int:
        """How often a function of the driver was called."""
        return self._library.stub_calls(function.encode())

    def fail(self, function: str, code: int, after: int = 0) -> None:
        """Let it fail once, after so many calls more."""
        self._library.stub_fail(function.encode(), after, code)

    def pieces(self) -> list[int]:
        """How many pieces of memory there are, by kind."""
        return [self._library.stub_pieces(kind) for kind in range(4)]

    def events(self) -> int:
        return self._library.stub_events()

    def _launch(self, kernel: bytes, blocks: int, threads: int, arguments) -> int:
        name = kernel.decode()
        self.launches.append((name, blocks, threads))
        twin = self.twins.get(name) or self._twin(name)
        if twin is not None:
            types = twin.argtypes[1:]
            values = [
                kind.from_address(at).value for kind, at in zip(types, arguments, strict=False)
            ]
            twin(blocks, *values)
        return 0

    @cache  # noqa: B019  (there is one stub in a process)
    def _twin(self, name: str):
        twins = (getattr(native.load(module), name, None) for module in self._modules)
        return next(filter(None, twins), None)
