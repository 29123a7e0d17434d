"""Numba kernels that load without importing numba.

Importing numba takes half a second and 50 MB per process; 64 ranks on a laptop cannot afford it. A module of kernels
is therefore compiled once per machine: numba lowers each function to LLVM, LLVM writes position-independent code for
this CPU, the C compiler links a shared library into the cache, and every later process opens it with `ctypes` in about
a millisecond. Calls release the GIL.

A *kernel module* is a file that imports numba, holds the sources and marks what is visible::

    @export("void(f8*, f8*, i8)", "void(f4*, f4*, i8)")   # kernels axpy_f8 and axpy_f4
    def axpy(y, x, n): ...

    kernels = native.load("hpckit.pde.kernels")            # does not import that module
    kernels.axpy_f8(address(y), address(x), y.size)

Arguments are addresses (`T*`), 64-bit integers (`i8`) and floats (`f8`, `f4`); kernels never raise and never allocate.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_C_TYPES = {"void": None, "i8": ctypes.c_int64, "f8": ctypes.c_double, "f4": ctypes.c_float}
_SIGNATURE = re.compile(r"(\w+)\((.*)\)$")


def export(*signatures: str) -> Callable[[Callable], Callable]:
    """Mark a kernel as visible, once per signature (see the module's text).

    With one signature the kernel keeps its name; with several, each is named after its first pointer: `name_f8`.
    """

    def mark(function: Callable) -> Callable:
        table = sys.modules[function.__module__].__dict__.setdefault("__exports__", {})
        for signature in signatures:
            pointer = re.search(r"(\w+)\*", signature)
            suffix = f"_{pointer[1]}" if len(signatures) > 1 and pointer else ""
            table[function.__name__ + suffix] = (function, signature)
        return function

    return mark


@cache
def load(module: str) -> SimpleNamespace:
    """The exported kernels of `module` as ctypes functions, compiled first where the cache has none for this machine.

    Concurrent first uses are safe: one process compiles while the others sleep on a file lock. Without a C compiler
    the kernels are compiled in memory by each process instead (slower start, same speed after it).
    """
    source = _source(module)
    library = cache_directory() / f"{module}-{_fingerprint(source)}.so"
    if not library.exists():
        with _lock(library.with_suffix(".lock")):
            if not library.exists() and not _build(module, library):
                return _in_memory(module)
    handle = ctypes.CDLL(str(library))
    signatures = json.loads(library.with_suffix(".json").read_text())
    return SimpleNamespace(**{name: _bind(getattr(handle, name), text) for name, text in signatures.items()})


def bind(function: Any, *arguments: int, keep: object) -> Callable[[], Any]:
    """A kernel of integers and addresses with its arguments for good: half the cost of a call that converts them.

    keep : whatever owns the memory at these addresses; it lives as long as the result.
    """
    plain = type(function)(ctypes.cast(function, ctypes.c_void_p).value)
    plain.restype = function.restype
    bound = partial(plain, *map(ctypes.c_int64, arguments))
    bound.keep = keep  # pyright: ignore[reportAttributeAccessIssue]
    return bound


def address(array: Any) -> int:
    """Address of the first element of a NumPy array, as kernels take it."""
    return array.__array_interface__["data"][0]


def cache_directory() -> Path:
    """Where compiled kernels live: `HPCKIT_CACHE`, else `~/.cache/hpckit`, else a private folder under `/tmp`."""
    named = os.environ.get("HPCKIT_CACHE")
    home = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hpckit"
    for folder in (home, Path(tempfile.gettempdir()) / f"hpckit-{os.getuid()}"):
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid():
                return folder
    raise OSError(f"no writable folder for compiled kernels: tried {home}; set HPCKIT_CACHE to one you can write")


def _source(module: str) -> str:
    """Its text, and that of the modules of hpckit that it imports from."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no kernel module named {module!r}")
    text = Path(spec.origin).read_text()
    return "\0".join([text, *map(_source, re.findall(r"^from (hpckit\.[\w.]+) import", text, re.MULTILINE))])


def _fingerprint(source: str) -> str:
    """Changes with the sources, the compiler and the CPU: nodes of different kinds may share a home directory."""
    cpu = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    parts = [
        source,
        Path(__file__).read_text(),
        importlib.metadata.version("numba"),
        platform.machine(),
        cpu[0] if cpu else "",
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: racing is safe, only slower
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bind(function: Any, signature: str) -> Any:
    match = _SIGNATURE.match(signature)
    assert match, f"not a kernel signature: {signature}"
    function.restype = _C_TYPES[match[1]]
    arguments = [a.strip() for a in match[2].split(",") if a.strip()]
    function.argtypes = [ctypes.c_void_p if a.endswith("*") else _C_TYPES[a] for a in arguments]
    return function


def _compile(module: str) -> dict[str, tuple[Any, str]]:
    """Name to (numba cfunc, signature)."""
    import numba

    table = importlib.import_module(module).__exports__
    return {
        name: (numba.cfunc(_SIGNATURE.sub(_numba_signature, signature), error_model="numpy")(function), signature)
        for name, (function, signature) in table.items()
    }


def _numba_signature(match: re.Match[str]) -> str:
    arguments = (re.sub(r"(\w+)\*", r"CPointer(\1)", a) for a in match[2].split(","))
    return f"{match[1]}({','.join(arguments)})"


def _build(module: str, library: Path) -> bool:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return False
    from llvmlite import binding as llvm

    kernels = _compile(module)
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3, reloc="pic"
    )
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        modules = {
            name: llvm.parse_assembly(kernel._library.get_llvm_str().replace(kernel.native_name, name))
            for name, (kernel, _) in kernels.items()
        }
        modules["_runtime"] = _trap_numba_runtime(llvm, modules.values())
        objects = [Path(scratch) / f"{name}.o" for name in modules]
        for file, ir in zip(objects, modules.values(), strict=True):
            file.write_bytes(machine.emit_object(ir))
        linked = Path(scratch) / "kernels.so"
        command = [*compiler.split(), "-shared", "-o", str(linked), *map(str, objects), "-lm"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return False
        signatures = Path(scratch) / "kernels.json"
        signatures.write_text(json.dumps({name: signature for name, (_, signature) in kernels.items()}))
        signatures.replace(library.with_suffix(".json"))
        linked.replace(library)  # last: its presence says that the build is whole
    return True


def _trap_numba_runtime(llvm: Any, modules: Any) -> Any:
    """Definitions of numba's error-raising runtime, which is not there at run time: kernels never raise, so trap."""
    names = {f.name for m in modules for f in m.functions if f.is_declaration and f.name.startswith(("numba_", "NRT_"))}
    body = "{ call void @llvm.trap() unreachable }"
    return llvm.parse_assembly(
        "declare void @llvm.trap()\n" + "\n".join(f"define void @{name}() {body}" for name in sorted(names))
    )


def _in_memory(module: str) -> SimpleNamespace:
    kernels = _compile(module)
    namespace = SimpleNamespace(**{name: _bind(kernel.ctypes, s) for name, (kernel, s) in kernels.items()})
    namespace._keep = kernels
    return namespace
