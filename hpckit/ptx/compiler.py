"""Compile hpckit's device kernels to PTX: `make ptx`, needed by nobody else.

`python -m hpckit.ptx.compiler` writes the files; with `--check` it says which are not what it would
write. It needs no GPU and no driver: Numba translates, and the wheel `nvidia-cuda-nvcc-cu12` has
NVIDIA's compiler of CUDA 12.0, whose PTX every newer driver takes.
"""

# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from numba import cuda, types
from numba.cuda import dispatcher
from numba.cuda.cudadrv import nvvm

from hpckit import native, ptx
from hpckit.ptx.on_cuda import on_cuda

WHEEL = "nvidia-cuda-nvcc-cu12"
ARCHITECTURE = (7, 0)  # Volta, the oldest that CUDA 13 drivers run on
_TYPES = {"i8": types.int64, "f8": types.float64, "f4": types.float32}
_ENTRY = ".visible .entry "
_DIRECTIVES = re.compile(r"^\.(?:version|target|address_size) .*\n", re.MULTILINE)
# What Numba adds to each kernel for a run time that is not there.
_NUMBAS = re.compile(r"^\.\w+ \.global .*(?:NumbaEnv.*|__);\n", re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args().check
    stale = 0
    for module in ptx.sources():
        file, text = ptx.file(module), compiled(module)
        if not check:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            sys.stderr.write(f"{file} is not what its sources give: run `make ptx`\n")
            stale = 1
    return stale


def compiled(module: str) -> str:
    """The PTX of all kernels of a module, under their own names."""
    _use_the_wheel()
    source = importlib.import_module(module)
    texts = [
        _kernel(getattr(source, f"{name}_thread"), name, signature)
        for name, (_, signature) in source.__exports__.items()
    ]
    head = f"// {module}\n// sources: {digest(module)}\n// by: {made_by()}\n"
    directives = "".join(_DIRECTIVES.findall(texts[0]))
    return head + directives + "".join(text[text.index(_ENTRY) :] for text in texts)


def digest(module: str) -> str:
    """Of all that its PTX is made of."""
    parts = [native.source_of(name) for name in (module, on_cuda.__module__)]
    return hashlib.sha256("\0".join([*parts, Path(__file__).read_text()]).encode()).hexdigest()


def made_by() -> str:
    """What its text may depend on besides."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("numba", WHEEL)]
    return ", ".join([*versions, "Python {}.{}".format(*platform.python_version_tuple())])


def _kernel(thread: Callable, name: str, signature: str) -> str:
    """PTX of a kernel, given its thread's factory, its name and its twin's signature."""
    arguments = signature.removeprefix("void(").removesuffix(")").split(", ")[1:]
    names = ", ".join(f"a{i}" for i in range(len(arguments)))
    # Numba compiles functions of a fixed number of arguments only: so this one is text.
    scope = {"cuda": cuda, "thread": on_cuda(thread)}
    exec(f"def {name}({names}): thread(cuda.blockIdx.x, cuda.threadIdx.x, {names})", scope)
    kinds = tuple(_TYPES[a] for a in arguments)
    text, _ = cuda.compile_ptx(scope[name], kinds, cc=ARCHITECTURE)
    before, entry, body = _NUMBAS.sub("", text).partition(_ENTRY)
    if ".global " in before or ".func " in before:
        raise NotImplementedError(f"{name} needs more than its own entry:\n{before}")
    return (before + entry + body).replace(body[: body.index("(")], name)


@cache
def _use_the_wheel() -> None:
    """Tell Numba where the compiler is, that there is no GPU, and not to fuse x * a + b.

    Numba looks for toolkits in system folders first, asks a GPU for its architecture wherever a
    kernel calls a function, and has no option for the last. It has no hooks for these either.
    """
    found = [Path(str(file.locate())) for file in importlib.metadata.files(WHEEL) or ()]
    library = next(file for file in found if file.name == "libnvvm.so")
    device_library = next(file for file in found if file.suffix == ".bc").read_bytes()
    unknown: Any = SimpleNamespace(compute_capability=ARCHITECTURE)
    dispatcher.get_current_device = lambda: unknown
    nvvm.open_cudalib = lambda _: ctypes.CDLL(str(library))
    nvvm.open_libdevice = lambda: device_library
    nvvm.compile_ir = partial(nvvm.compile_ir, fma=False)


if __name__ == "__main__":
    sys.exit(main())
