"""Compiled kernels: damaged ones are made again, and broken compilers done without."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hpckit
from hpckit import cache, link, native

SMALL = "hpckit.cluster.kernels.proposals"


class Builds:
    """The library of the smallest kernels, and how often it was built since."""

    def __init__(self, image):
        self.image, self.count = image, 0

    def __call__(self, module, entry, linker):
        self.count += 1
        native._keep(entry, self.image)
        return native._open(self.image)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """A whole library, compiled here."""
    linker = link.find().linker
    if linker is None:
        pytest.skip(f"no C compiler that links here: {link.find().failures}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return linker(native._objects(native._compile(SMALL)))


@pytest.fixture
def builds(image, tmp_path, monkeypatch):
    """An empty cache in `tmp_path`; building is quick, and counted."""
    builds = Builds(image)
    monkeypatch.setenv("HPCKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_build", builds)
    monkeypatch.setattr(native, "speaks", lambda: True)
    monkeypatch.setattr(native, "_told", [])
    native._warn.cache_clear()
    return builds


def load():
    """As a new process would."""
    return native.load.__wrapped__(SMALL)


def works(kernels):
    """Of three bids (change, candidate, slot, block) the last is best: the lowest change."""
    bids = np.array([[-1.0, 4.0, 0.0, 0.0], [-2.0, -1.0, 0.0, 0.0], [-3.0, 5.0, 0.0, 0.0]])
    return kernels.winner(native.address(bids), 3) == 2


def test_built_once(builds, tmp_path):
    assert works(load())
    assert works(load())
    assert builds.count == 1
    assert [path.name for path in tmp_path.iterdir()] == [native._entry(SMALL)]


def flip(place):
    def flipped(content):
        at = int(place * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]

    return flipped


DAMAGES = {
    "empty": lambda content: b"",
    "cut in the middle": lambda content: content[: len(content) // 2],
    "cut by a byte": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "text": lambda content: b"<html>quota exceeded</html>",
    "zeros": lambda content: bytes(len(content)),
    "another's": lambda content: content[:-32] + cache.digest("another.so", content[:-32]),
    "no library, but whole": lambda content: b"text" + cache.digest(native._entry(SMALL), b"text"),
    "no kernels, but whole": lambda content: (
        (other := Path("/proc/self/exe").read_bytes()[:100_000])
        + cache.digest(native._entry(SMALL), other)
    ),
    **{f"a bit at {place}": flip(place) for place in (0.0, 0.3, 0.5, 0.9, 1.0)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_library_is_built_again_once(builds, tmp_path, damage):
    load()
    path = tmp_path / native._entry(SMALL)
    path.write_bytes(damage(path.read_bytes()))
    assert works(load())
    assert builds.count == 2
    assert works(load())
    assert builds.count == 2


@pytest.mark.parametrize(
    "kind", ["open to others", "unreadable", "link", "dangling link", "pipe", "folder"]
)
def test_what_is_no_file_of_ours_is_never_loaded(builds, tmp_path, kind):
    path = tmp_path / native._entry(SMALL)
    load()
    if kind == "open to others":
        path.chmod(0o666)
    elif kind == "unreadable":
        if os.geteuid() == 0:
            pytest.skip("root reads what is unreadable to others")
        path.chmod(0)
    else:
        content = path.read_bytes()
        path.unlink()
        {
            "link": lambda: (
                (tmp_path / "elsewhere").write_bytes(content),
                path.symlink_to(tmp_path / "elsewhere"),
            ),
            "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
            "pipe": lambda: os.mkfifo(path),
            "folder": path.mkdir,
        }[kind]()
    assert works(load())
    assert builds.count == 2
    assert works(load())
    assert builds.count == (3 if kind == "folder" else 2)  # a folder stays, and is passed by


def test_cutting_the_file_of_loaded_kernels_does_no_harm(builds, tmp_path):
    kernels = load()
    os.truncate(tmp_path / native._entry(SMALL), 100)
    assert works(kernels)


def test_a_cache_that_cannot_be_written_is_told_and_passed_by(builds, monkeypatch, caplog):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write", full)
    assert works(load())
    assert works(load())
    (said,) = [record.getMessage() for record in caplog.records]
    assert "cannot be kept" in said
    assert "No space left on device" in said


def test_libraries_of_other_machines_and_versions_have_other_names(monkeypatch):
    names = {native._entry(SMALL)}
    for change in range(len(native._machine())):
        parts = [
            part + " of another kind" * (i == change) for i, part in enumerate(native._machine())
        ]
        with monkeypatch.context() as patch:
            patch.setattr(native, "_machine", lambda parts=parts: parts)
            names.add(native._entry(SMALL))
    assert len(names) == 1 + len(native._machine())
    monkeypatch.setenv("NUMBA_OPT", "0")
    assert native._machine.__wrapped__() != native._machine()
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # changes nothing
    monkeypatch.delenv("NUMBA_OPT")
    assert native._machine.__wrapped__() == native._machine()


MIXED = '''"""An equation: "kernels", and more."""

from hpckit.native import export
from hpckit.pde.shallow_water import (
    GRAVITY,
    ShallowWater,
)
from hpckit.pde.solver import Solver

WEIGHT = 2.0
TITLE = "picture"

def _scaled(x):
    return WEIGHT * GRAVITY * x

@export(
    "void(f8*, i8)",
)
def scale(x, n):
    for i in range(n):
        x[i] = _scaled(x[i])


class Scale(Solver):
    """A solver."""
'''


@pytest.mark.parametrize(
    ("before", "after", "matters"),
    [
        ("WEIGHT = 2.0", "WEIGHT = 3.0", True),
        ("WEIGHT * GRAVITY", "GRAVITY * WEIGHT", True),
        ('"void(f8*, i8)"', '"void(f4*, i8)"', True),
        ("_scaled(x[i])", "-_scaled(x[i])", True),
        ('TITLE = "picture"', 'TITLE = "map"', False),
        ("A solver.", "Our solver.", False),
        ("from hpckit.pde.solver import Solver", "from hpckit.halo import Halo", False),
        ("and more.", "and much more.", False),
    ],
)
def test_kernels_have_another_name_where_what_they_use_changes(monkeypatch, before, after, matters):
    text = native._text

    def source(mixed):
        monkeypatch.setattr(native, "_text", lambda name: mixed if name == "mixed" else text(name))
        return native.source_of("mixed")

    assert "GRAVITY = 9.81" in source(MIXED)
    assert "self.depth" not in source(MIXED)
    assert (source(MIXED) != source(MIXED.replace(before, after))) == matters


def test_what_is_edited_after_its_import_keeps_the_name_of_what_was_imported(tmp_path, monkeypatch):
    """Kernels are made of what was imported, so that is what they are named after."""
    path = tmp_path / "mixed_equation.py"
    text = MIXED.replace("from hpckit.pde.solver import Solver\n", "Solver = object\n")
    path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    before = native._entry("mixed_equation")
    importlib.import_module("mixed_equation")
    path.write_text(text.replace("WEIGHT = 2.0", "WEIGHT = 3.0"))
    assert native._entry("mixed_equation") == before
    importlib.invalidate_caches()
    sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
    importlib.reload(sys.modules["mixed_equation"])
    sys.dont_write_bytecode = kept
    assert native._entry("mixed_equation") != before
    monkeypatch.delitem(sys.modules, "mixed_equation")
    native._texts.pop("mixed_equation")


def test_what_was_edited_while_it_was_compiled_is_not_kept(image, tmp_path, monkeypatch):
    monkeypatch.setenv("HPCKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_compile", lambda module: {})
    monkeypatch.setattr(native, "_objects", lambda kernels: [])
    for entry in ("of the older text.so", native._entry(SMALL)):
        assert works(native._build(SMALL, entry, lambda objects: image))
    assert [path.name for path in tmp_path.iterdir()] == [native._entry(SMALL)]


def test_all_modules_of_kernels_are_known():
    root = Path(hpckit.__path__[0])
    marked = re.compile(r"(?<!def )(?<![\w.])export\(")
    kernels = {path for path in root.rglob("*.py") if marked.search(path.read_text())}
    kernels -= {root / "native.py", root / "ptx" / "__init__.py"}  # they only say how
    names = {".".join(path.relative_to(root.parent).with_suffix("").parts) for path in kernels}
    assert len(names) > 10 and {source.module for source in native.sources()} == names


def test_nobody_waits_for_a_process_that_is_stopped(builds, monkeypatch):
    monkeypatch.setattr(native, "PATIENCE", 0.1)
    with cache.Turn(f"{cache.home()}/{native._entry(SMALL)}/1") as stopped:
        assert stopped.taken()
        assert works(load())
    assert builds.count == 1


def test_a_long_wait_is_told_once(builds, monkeypatch, caplog):
    monkeypatch.setattr(native, "QUIET", 0.0)
    monkeypatch.setattr(native, "PATIENCE", 0.2)
    for attempt in (1, 2):
        native._keep(native._entry(SMALL), b"damaged")
        with cache.Turn(f"{cache.home()}/{native._entry(SMALL)}/1") as stopped:
            assert stopped.taken()
            assert works(load())
        assert builds.count == attempt
    (said,) = [record.getMessage() for record in caplog.records]
    assert SMALL in said
    assert "The best of several" in said
    assert "doctor --compile" in said


# -- compilers


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """`compiler(script)`: the only one on the `PATH`, as cc; None: there is none."""
    monkeypatch.setenv("HPCKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    path = os.environ["PATH"]

    def use(script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if script:
            (folder / "cc").write_text(f"#!/bin/sh\nPATH={path}\n{script}\n")
            (folder / "cc").chmod(0o755)
            if (
                subprocess.run(
                    [folder / "cc"], check=False, capture_output=True, timeout=500
                ).returncode
                == 126
            ):
                pytest.skip("programs in temporary folders cannot be run here")
        monkeypatch.setenv("PATH", str(folder))
        return link.find.__wrapped__()

    return use


def real():
    command = shutil.which("cc") or shutil.which("gcc")
    if link.find().linker is None or command is None:
        pytest.skip(f"no C compiler that links here: {link.find().failures}")
    return command


NO_LIBRARY = "echo '/usr/bin/ld: cannot find crti.o: No such file or directory' >&2; exit 1"
BROKEN = {
    NO_LIBRARY: "cannot find crti.o",
    "exit 3": "exit code 3",
    "exit 0": "exit code 0",
    "while [ $# -gt 0 ]; do [ $1 = -o ] && echo text > $2; shift; done": "cannot be loaded",
}


@pytest.mark.parametrize(("script", "words"), BROKEN.items(), ids=BROKEN.values())
def test_a_compiler_that_does_not_link_is_quoted(compiler, script, words):
    found = compiler(script)
    assert found.linker is None
    assert words in found.fault
    assert "build-essential" in found.fault


def test_no_compiler(compiler):
    assert "no C compiler" in compiler(None).fault


def test_a_compiler_that_does_not_answer(compiler, monkeypatch):
    monkeypatch.setattr(link, "_TIMEOUT", 0.2)
    assert "no answer in 0.2 s" in compiler("[ $# = 0 ] || exec sleep 20").fault


def test_the_development_files_of_libc_are_not_needed(compiler):
    found = compiler(
        f'case "$*" in *-nostdlib*) exec {real()} "$@";; esac; echo cannot find crti.o >&2; exit 1'
    )
    assert found.linker is not None
    assert found.fault is None


@pytest.mark.parametrize("named", ["/nonexistent/cc -m64", "false", "'", "/dev/null", "cat"])
def test_a_wrong_cc_is_told_and_passed_by(monkeypatch, tmp_path, named):
    real()
    monkeypatch.setenv("HPCKIT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", named)
    found = link.find.__wrapped__()
    assert found.linker is not None
    assert "CC does not link" in str(found.fault)


def test_without_a_linker_kernels_are_compiled_in_memory_and_nobody_waits(
    builds, monkeypatch, caplog
):
    monkeypatch.setattr(link, "find", lambda: link.Found(None, ("cc: cannot find crti.o",)))
    monkeypatch.setattr(native, "_in_memory", lambda module: f"{module} in memory")
    with cache.Turn(f"{cache.home()}/{native._entry(SMALL)}/1") as other:
        assert other.taken()
        assert [load(), load()] == [f"{SMALL} in memory"] * 2
    assert builds.count == 0
    (said,) = [record.getMessage() for record in caplog.records]
    assert "cannot find crti.o" in said


def test_kernels_in_memory_are_the_same(builds):
    assert works(native._in_memory(SMALL))


# -- processes


def test_compiled_beforehand_without_mpi(mpirun, tmp_path):
    real()
    code = f"""
import sys
from hpckit import native
from hpckit.apps.doctor import kernels as compiled
native.sources = lambda: [native.Source({SMALL!r}, {{}})]
sys.exit(compiled.compile_all(1) or compiled.compile_all(1) or "mpi4py" in sys.modules)
"""
    job = mpirun(None, "-c", code, HPCKIT_CACHE=str(tmp_path), MPI4PY_LIBMPI="/nonexistent")
    assert job.returncode == 0, job.stdout
    assert job.stdout.count("compiled in") == job.stdout.count("was there") == 1
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]
    assert sys.platform == "linux"


def test_a_template_has_a_library_for_each_set_of_constants(monkeypatch):
    """Its functions see the constants; the module that others import does not change."""
    template = "hpckit.sfm.kernels.schur"
    names = {
        native._entry(template),
        native._entry(template, D=6),
        native._entry(template, D=6, d=3),
    }
    assert len(names) == 3
    assert native._entry(template, D=6, d=3) == native._entry(template, d=3, D=6)
    made = native._with(template, {"D": 6})
    assert made.assemble.__globals__["D"] == 6
    assert native._with(template, {}).D == 9
    with pytest.raises(AssertionError, match="no constants"):
        native._with(template, {"E": 6})
