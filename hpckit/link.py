"""From LLVM's code to a shared library: by a C compiler that has shown that it can.

Many containers have gcc, but nothing to link with (libc6-dev), and `CC` may name what is not there
or is for another machine. So each candidate links a trial library first; that takes some hundredths
of a second, before the first compilation only.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hpckit import cache
from hpckit.errors import HpckitError

REMEDY = (
    "install a C compiler that links (Debian, Ubuntu: apt install build-essential), "
    "or name one by CC"
)
# The second way needs no development files of libc.
_LIBRARIES = (("-lm",), ("-nostdlib", "-l:libm.so.6", "-lgcc"))
_TIMEOUT = 20.0  # seconds that a linker may take; they need hundredths
_TRIAL = """
declare double @exp(double)
define double @trial(double %x) {
  %y = call double @exp(double %x)
  ret double %y
}
"""


class LinkError(HpckitError):
    """What the compiler said, in a line."""


class Linker(NamedTuple):
    """A C compiler and the libraries that it needs to be told of."""

    command: tuple[str, ...]
    libraries: tuple[str, ...]

    def __call__(self, objects: Sequence[bytes]) -> bytes:
        """The shared library of these object files. Raises `LinkError`."""
        reason = "no folder for it can be written; set HPCKIT_CACHE to one"
        for place in cache.places():
            try:
                with cache.scratch(place) as folder:
                    return self._link(objects, folder)
            except OSError as error:  # full, or read-only: another place may do
                reason = f"{place}: {error.strerror or error}"
        raise LinkError(reason)

    def _link(self, objects: Sequence[bytes], folder: Path) -> bytes:
        import subprocess  # only where something is compiled

        files = [folder / f"{i}.o" for i in range(len(objects))]
        library = folder / "library.so"
        for file, content in zip(files, objects, strict=True):
            file.write_bytes(content)
        try:
            done = subprocess.run(
                [*self.command, "-shared", "-o", str(library), *map(str, files), *self.libraries],
                env=os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LinkError(f"{self.command[0]}: no answer in {_TIMEOUT:g} s") from None
        except OSError as error:
            raise LinkError(f"{self.command[0]}: {error.strerror}") from None
        if done.returncode or not library.is_file():
            code = f"exit code {done.returncode}"
            said = (done.stderr.strip() or done.stdout.strip() or code).splitlines()[0]
            raise LinkError(f"{self.command[0]}: {said[:200]}")
        return library.read_bytes()


class Found(NamedTuple):
    """The first linker that works, and what those that come before it said."""

    linker: Linker | None
    failures: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """What the user should know; None where all is well."""
        if self.linker is None:
            said = "; ".join(self.failures) or "no C compiler (cc, gcc, clang)"
            return (
                "kernels cannot be linked, every process compiles its own at each start: "
                f"{said}: {REMEDY}"
            )
        if self.failures:
            return (
                f"CC does not link ({self.failures[0]}): kernels are linked by "
                f"{self.linker.command[0]} instead"
            )
        return None


@functools.cache
def find() -> Found:
    """Try `CC`, then `cc`, `gcc` and `clang`."""
    failures = []
    for command in _commands():
        for libraries in _LIBRARIES:
            linker = Linker(command, libraries)
            try:
                _try(linker)
            except LinkError as error:
                failures.append(str(error))
            else:
                return Found(linker, tuple(failures) if _named() not in ((), command) else ())
        # Without development files is the second choice: what the first said counts.
        del failures[-1]
    return Found(None, tuple(failures))


def emit(code: str) -> bytes:
    """The object file, for this CPU, of LLVM code."""
    from llvmlite import binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
    )
    return machine.emit_object(llvm.parse_assembly(code))


def open_image(image: bytes) -> ctypes.CDLL:
    """Load a shared library from memory. Raises `OSError`.

    Were it loaded from its file, whoever cuts or overwrites that later would end this process with
    SIGBUS.
    """
    # Never closed: another library under its number would be taken for this one.
    descriptor = os.memfd_create("hpckit")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(image)
    return ctypes.CDLL(f"/proc/self/fd/{descriptor}")


def _commands() -> list[tuple[str, ...]]:
    paths = [path for path in map(shutil.which, ("cc", "gcc", "clang")) if path]
    commands = [_named(), *((path,) for path in paths)]
    return list(dict.fromkeys(filter(None, commands)))


def _named() -> tuple[str, ...]:
    import shlex

    text = os.environ.get("CC", "")
    try:
        return tuple(shlex.split(text))
    except ValueError:  # a quote without its other half
        return tuple(text.split())


def _try(linker: Linker) -> None:
    try:
        trial = open_image(linker([emit(_TRIAL)])).trial
    except (OSError, AttributeError) as error:
        raise LinkError(f"{linker.command[0]}: what it links cannot be loaded: {error}") from None
    trial.restype, trial.argtypes = ctypes.c_double, [ctypes.c_double]
    if trial(0.0) != 1.0:
        raise LinkError(f"{linker.command[0]}: what it links computes wrongly")
