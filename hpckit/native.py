"""Numba kernels that load without importing numba.

Importing numba takes half a second and 50 MB per process; 64 ranks on a laptop cannot afford it. A
module of kernels is therefore compiled once per machine: numba lowers each function to LLVM, LLVM
writes position-independent code for this CPU, the C compiler links a shared library into the cache,
and every later process opens it with `ctypes` in about a millisecond. Calls release the GIL. A
library is loaded from a private copy in memory whose checksum was right, so that damaged files are
only built again; where none can be kept, every process compiles its own.

A *kernel module* is a file that holds the sources and marks what is visible. It imports numba only
where it needs more than plain functions, and may hold other things, such as an equation::

    @export("void(f8*, f8*, i8)", "void(f4*, f4*, i8)")   # kernels axpy_f8 and axpy_f4
    def axpy(y, x, n): ...

    kernels = native.load("hpckit.pde.kernels")            # does not import that module
    kernels.axpy_f8(address(y), address(x), y.size)

Arguments are addresses (`T*`), 64-bit integers (`i8`) and floats (`f8`, `f4`); kernels never raise
and never allocate.

A module may be a template: `native.load("hpckit.sfm.kernels.schur", D=9)` compiles it with its
constant `D`, an integer at the left margin, set to 9. Loops of constant length are what compilers
unroll; each set of constants is a library of its own, and `SIZES` lists those that are used.
`OPTIONS` of a module are numba's, such as `{"fastmath": {"contract"}}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from hpckit import cache, link
from hpckit.errors import HpckitError
from hpckit.log import get_logger, speaks

PATIENCE = 30.0  # seconds until one more process compiles the same: the first may be stopped
QUIET = 2.0  # seconds of waiting for kernels after which the user is told
_C_TYPES = {"void": None, "i8": ctypes.c_int64, "f8": ctypes.c_double, "f4": ctypes.c_float}
_SIGNATURE = re.compile(r"(\w+)\((.*)\)$")
_DOCSTRING = re.compile(r'\A""".*?"""', re.DOTALL)
_MARGIN = re.compile(r"\n(?=[^\s)\]}#])")  # before a statement of a module; brackets end one
_DEFINITION = re.compile(r"(?:def|class) (\w+)|(\w+)(?:: [^=\n]+)? = |from [\w.]+ import ([^#]*)")
_IMPORT = re.compile(r"^from (hpckit\.[\w.]+) import (\([^)]*\)|.*)", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")
_SIGNATURES = "hpckit_signatures"  # the symbol by which a library tells what it holds
_DIGEST = 32  # bytes at the end of an entry
_SETTINGS = (  # of the environment that change what numba makes
    "NUMBA_BOUNDSCHECK",
    "NUMBA_CPU",
    "NUMBA_DEBUG",
    "NUMBA_ENABLE_AVX",
    "NUMBA_FUNCTION",
    "NUMBA_LLVM",
    "NUMBA_LOOP_VECTORIZE",
    "NUMBA_OPT",
    "NUMBA_SLP_VECTORIZE",
)
_told: list[str] = []
_OURS = Path(__file__).read_text()  # as this process runs it, whatever becomes of the file
_texts: dict[str, str] = {}  # of modules as they were imported


def export(*signatures: str) -> Callable[[Callable], Callable]:
    """Mark a kernel as visible, once per signature (see the module's text).

    With one signature the kernel keeps its name; with several, each is named after its first
    pointer: `name_f8`.
    """

    def mark(function: Callable) -> Callable:
        table = function.__globals__.setdefault("__exports__", {})
        again = not table or function.__name__ in table
        if again and sys.modules[function.__module__].__dict__ is function.__globals__:
            _remember(function.__module__)  # imported now, or again: no template's copy
        for signature in signatures:
            pointer = re.search(r"(\w+)\*", signature)
            suffix = f"_{pointer[1]}" if len(signatures) > 1 and pointer else ""
            table[function.__name__ + suffix] = (function, signature)
        return function

    return mark


@functools.cache
def load(module: str, **constants: int) -> SimpleNamespace:
    """The exported kernels of `module` as ctypes functions, compiled first where none are cached.

    constants : of a template, see the module's text.

    Concurrent first uses are safe: one process of a host compiles while the others sleep. Where
    kernels cannot be linked or kept, each process compiles them in memory (slower start, same speed
    after it), after one warning.
    """
    entry = _entry(module, **constants)
    return _kept(entry) or _make(module, entry, **constants)


class Source(NamedTuple):
    """A kernel module, and its constants where it is a template."""

    module: str
    constants: dict[str, int]

    def __str__(self) -> str:
        values = ", ".join(f"{name}={value}" for name, value in self.constants.items())
        return f"{self.module} {values}".strip()


def sources() -> list[Source]:
    """All that hpckit has kernels of, templates once for each of their `SIZES`."""
    import pkgutil

    package = importlib.import_module("hpckit")
    names = [found.name for found in pkgutil.walk_packages(package.__path__, "hpckit.")]
    return [
        Source(name, constants)
        for name in names
        if re.search(r"^from hpckit.native import .*\bexport\b", _text(name), re.MULTILINE)
        for constants in _sizes(name)
    ]


def _sizes(module: str) -> list[dict[str, int]]:
    """What it is made for, by its literal `SIZES` or that of the module it imports them from."""
    import ast

    if "SIZES" not in _text(module):
        return [{}]
    for text in _used(module, frozenset(["SIZES"])):
        for found in ast.parse(text).body:
            if isinstance(found, ast.Assign) and ast.unparse(found.targets[0]) == "SIZES":
                return ast.literal_eval(found.value)
    return [{}]


def is_kept(module: str, **constants: int) -> bool:
    """Whether the cache holds its kernels, whole and for this machine."""
    return _kept(_entry(module, **constants)) is not None


def bind(function: Any, *arguments: int, keep: object) -> Callable[[], Any]:
    """A kernel of integers and addresses, its arguments bound: half the cost of a call.

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


def _entry(module: str, **constants: int) -> str:
    """Name of its library, by sources, compiler and CPU: machines may share a cache."""
    parts = [source_of(module), _OURS, *_machine()]
    values = "".join(f"-{name}{value}" for name, value in sorted(constants.items()))
    return f"{module}{values}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:16]}.so"


def source_of(module: str) -> str:
    """The text of its kernels and of all that they use, in other modules of hpckit too.

    A file may hold more than kernels, such as an equation with its options and its pictures, and
    imports much that kernels never see: none of that shall make them be compiled again. So start
    from what is exported, and add the statements that define a word in what there is, until there
    is nothing to add. A statement too many does no harm, and one whose names are not plain to see,
    such as an `if`, is always there.
    """
    return chr(0).join(_used(module, None))


def _used(module: str, wanted: Set[str] | None) -> Iterator[str]:
    """The statements that define the names `wanted` (None: all exports), and what they use."""
    text = _text(module)
    if "\nclass " not in text:  # nothing but kernels: all of it, which is quicker to find out
        yield text
        for name, names in _IMPORT.findall(text):
            if name != __name__:
                yield from _used(name, set(_WORD.findall(names)))
        return
    waiting = _statements(text)
    words = set(wanted or ())
    imports: list[tuple[str, frozenset[str]]] = []
    while True:
        taken = [
            statement
            for statement in waiting
            if not statement.names
            or statement.names & words
            or (wanted is None and "export(" in statement.text)
        ]
        if not taken:
            break
        waiting = [statement for statement in waiting if statement not in taken]
        for statement in taken:
            yield statement.text
            origin = _IMPORT.match(statement.text)
            if not origin:
                words |= statement.words
            elif origin[1] != __name__:
                imports.append((origin[1], statement.names))
    for name, names in imports:  # by now it is known which of them are used
        yield from _used(name, names & words)


class _Statement(NamedTuple):
    """A statement at a module's left margin, and the names it defines: none if not plain to see."""

    text: str
    names: frozenset[str]
    words: frozenset[str]


@functools.cache
def _statements(text: str) -> list[_Statement]:
    found: list[_Statement] = []
    decorators = ""
    for piece in _MARGIN.split(_DOCSTRING.sub("", text)):
        if piece.startswith("@"):
            decorators += f"{piece}\n"
        elif not piece.startswith("if TYPE_CHECKING:"):
            match = _DEFINITION.match(piece)
            names = _WORD.findall(match[match.lastindex or 0]) if match else ()
            whole = decorators + piece
            found.append(_Statement(whole, frozenset(names), frozenset(_WORD.findall(whole))))
            decorators = ""
    return found


def _remember(module: str) -> None:
    """What it and all that it imports look like now: files may be edited before kernels are made.

    A kernel is named after the text that it was imported from, for it is made of that. So an
    equation whose file changes while a program runs is compiled as it was, under the older name.
    """
    if getattr(sys.modules[module], "__spec__", None) is None:
        return  # a script: nobody can `load` its kernels
    _texts.pop(module, None)
    _texts[module] = text = _text(module)
    for name, _ in _IMPORT.findall(text):
        if name in sys.modules and name not in _texts and name != __name__:
            _remember(name)


def _text(module: str) -> str:
    """As it was imported, where it or what imports it has kernels; else as it is now."""
    if module in _texts:
        return _texts[module]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no kernel module named {module!r}")
    return Path(spec.origin).read_text()


@functools.cache
def _machine() -> list[str]:
    """What compiled code depends on besides its source."""
    with Path("/proc/cpuinfo").open() as file:
        flags = next((line for line in file if line.startswith(("flags", "Features"))), "")
    versions = [importlib.metadata.version(name) for name in ("numba", "llvmlite")]
    settings = [
        f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith(_SETTINGS)
    ]
    return [
        platform.machine(),
        flags,
        sys.version,
        os.confstr("CS_GNU_LIBC_VERSION") or "",
        *versions,
        *settings,
    ]


def _kept(entry: str) -> SimpleNamespace | None:
    """The kernels of a cached library; None where none is whole and made for this machine."""
    for folder in cache.places():
        content = cache.read(folder / entry) or b""
        image = content[:-_DIGEST]
        if content[-_DIGEST:] == cache.digest(entry, image):
            with contextlib.suppress(
                OSError, ValueError, AttributeError
            ):  # built elsewhere after all: build it again
                return _open(image)
    return None


def _keep(entry: str, image: bytes) -> None:
    """In the first place that takes it."""
    reason = "there is no folder for them"
    for folder in cache.places():
        try:
            cache.write(folder / entry, image + cache.digest(entry, image))
        except OSError as error:
            reason = f"{folder}: {error.strerror}"
        else:
            return
    _warn(
        f"compiled kernels cannot be kept, every process compiles its own at each start: {reason}; "
        "set HPCKIT_CACHE"
    )


def _open(image: bytes) -> SimpleNamespace:
    """The kernels of a library that describes itself (see `_objects`)."""
    library = link.open_image(image)
    signatures = json.loads(
        ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, _SIGNATURES)))
    )
    return SimpleNamespace(
        **{name: _bind(getattr(library, name), text) for name, text in signatures.items()}
    )


def _make(module: str, entry: str, **constants: int) -> SimpleNamespace:
    """Compile, or wait for a process of this host that does."""
    with _explained(module):
        if not (linker := _linker()):
            return _in_memory(module, **constants)
        begin = time.monotonic()
        for attempt in itertools.count(1):
            with cache.Turn(f"{cache.home()}/{entry}/{attempt}") as turn:
                while time.monotonic() < begin + attempt * PATIENCE:
                    mine, found = (
                        turn.taken(),
                        _kept(entry),
                    )  # in this order: it may come in between
                    if found or mine:
                        return found or _build(module, entry, linker, **constants)
                    time.sleep(0.02)
        raise AssertionError("unreachable: attempts do not end")


def _build(module: str, entry: str, linker: link.Linker, **constants: int) -> SimpleNamespace:
    kernels = _compile(module, **constants)
    try:
        image = linker(_objects(kernels))
        namespace = _open(image)
    except (HpckitError, OSError, AttributeError) as error:
        _warn(
            f"kernels of {module} cannot be linked, every process compiles its own at each start: "
            f"{error}"
        )
        return _in_memory(module, **constants)
    if _entry(module, **constants) == entry:  # else it was edited meanwhile: of either text
        _keep(entry, image)
    return namespace


def _linker() -> link.Linker | None:
    found = link.find()
    if found.fault:
        _warn(found.fault)
    return found.linker


@contextlib.contextmanager
def _explained(module: str) -> Iterator[None]:
    """Where this takes longer than people like to wait, the user is told why: once."""
    import ast

    purpose = (ast.get_docstring(ast.parse(_text(module))) or "").partition("\n")[0].rstrip(".")
    purpose = purpose.removeprefix("Kernel source: ")
    text = f"compiling kernels, once for this machine and version: {module} ({purpose})"
    timer = threading.Timer(
        QUIET, _tell, [f"{text}; `python -m hpckit.apps.doctor --compile` makes all beforehand"]
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tell(text: str) -> None:
    """Of a compilation that takes long: of the first one only."""
    if not _told:
        _warn(text)
    _told.append(text)


@functools.cache
def _warn(text: str) -> None:
    """Once, and for all ranks by the first."""
    if speaks():
        get_logger(__name__).warning("%s", text)


def _bind(function: Any, signature: str) -> Any:
    match = _SIGNATURE.match(signature)
    assert match, f"not a kernel signature: {signature}"
    function.restype = _C_TYPES[match[1]]
    arguments = [a.strip() for a in match[2].split(",") if a.strip()]
    function.argtypes = [ctypes.c_void_p if a.endswith("*") else _C_TYPES[a] for a in arguments]
    return function


def _compile(module: str, **constants: int) -> dict[str, tuple[Any, str]]:
    """Name to (numba cfunc, signature)."""
    import numba

    source = _with(module, constants) if constants else importlib.import_module(module)
    options = {"error_model": "numpy", **getattr(source, "OPTIONS", {})}
    return {
        name: (
            numba.cfunc(_SIGNATURE.sub(_numba_signature, signature), **options)(function),
            signature,
        )
        for name, (function, signature) in source.__exports__.items()
    }


def _with(module: str, constants: Mapping[str, int]) -> ModuleType:
    """A module of its own, with these constants: functions look them up when they are compiled."""
    importlib.import_module(module)  # so that its text is remembered
    made = ModuleType(module)
    exec(compile(_text(module), module, "exec"), vars(made))
    unknown = constants.keys() - vars(made).keys()
    assert not unknown, f"{module} has no constants {unknown}"
    vars(made).update(constants)
    return made


def _numba_signature(match: re.Match[str]) -> str:
    arguments = (re.sub(r"(\w+)\*", r"CPointer(\1)", a) for a in match[2].split(","))
    return f"{match[1]}({','.join(arguments)})"


def _objects(kernels: dict[str, tuple[Any, str]]) -> list[bytes]:
    """Object files of the kernels, of numba's stand-in runtime, and the description of all."""
    from llvmlite import binding as llvm

    codes = [
        k._library.get_llvm_str().replace(k.native_name, name) for name, (k, _) in kernels.items()
    ]
    signatures = (
        json.dumps({name: signature for name, (_, signature) in kernels.items()}).encode() + b"\0"
    )
    escaped = "".join(f"\\{byte:02x}" for byte in signatures)
    description = f'@{_SIGNATURES} = constant [{len(signatures)} x i8] c"{escaped}"'
    return [
        link.emit(code)
        for code in (*codes, _trap_numba_runtime(map(llvm.parse_assembly, codes)), description)
    ]


def _trap_numba_runtime(modules: Iterable[Any]) -> str:
    """Numba's error-raising runtime, absent at run time, as traps: kernels never raise."""
    names = {
        f.name
        for m in modules
        for f in m.functions
        if f.is_declaration and f.name.startswith(("numba_", "NRT_"))
    }
    body = "{ call void @llvm.trap() unreachable }"
    return "declare void @llvm.trap()\n" + "\n".join(
        f"define void @{name}() {body}" for name in sorted(names)
    )


def _in_memory(module: str, **constants: int) -> SimpleNamespace:
    kernels = _compile(module, **constants)
    namespace = SimpleNamespace(
        **{name: _bind(kernel.ctypes, s) for name, (kernel, s) in kernels.items()}
    )
    namespace._keep = kernels
    return namespace
