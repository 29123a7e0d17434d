"""Kept files: where they may be, whom they are believed from, and what killed processes leave."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hpckit import cache

EVERYTHING = ("HPCKIT_CACHE", "XDG_CACHE_HOME", "HOME")


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """`environment(HOME=..., ...)` sets these, unsets others; temporary files are in `tmp_path`."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(cache, "_refused", set())
    monkeypatch.setattr(cache, "speaks", lambda: True)

    def set_all(**values):
        for name in EVERYTHING:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        return tmp_path / "tmp" / f"hpckit-{os.geteuid()}"

    return set_all


def test_the_preferred_folder(environment, tmp_path):
    home, base, named = (tmp_path / name for name in ("home", "xdg", "named"))
    home.mkdir()
    environment(HOME=home)
    assert cache.home() == home / ".cache" / "hpckit"
    environment(HOME=home, XDG_CACHE_HOME=base)
    assert cache.home() == base / "hpckit"
    environment(HOME=home, XDG_CACHE_HOME=base, HPCKIT_CACHE=named)
    assert cache.home() == named
    environment(HOME=home, XDG_CACHE_HOME="", HPCKIT_CACHE="")
    assert cache.home() == home / ".cache" / "hpckit"
    environment(HOME=home, XDG_CACHE_HOME="relative")  # the standard: ignore it
    assert cache.home() == home / ".cache" / "hpckit"


@pytest.mark.parametrize(
    "values",
    [
        {"HOME": ""},
        {"HOME": "relative"},
        {"HOME": "/nonexistent/of/hpckit"},
        {"XDG_CACHE_HOME": "/dev/null"},
    ],
)
def test_without_a_folder_of_the_user_one_among_the_temporary_files_is_taken(
    environment, values, monkeypatch
):
    monkeypatch.chdir(tempfile.gettempdir())
    fallback = environment(**values)
    assert cache.home() == fallback
    assert not Path("/nonexistent").exists()


def test_a_process_of_nobody(environment, monkeypatch):
    def unknown(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    assert environment() == cache.home()


def test_a_full_disk_is_read_and_another_is_written(environment, tmp_path, monkeypatch):
    fallback = environment(HPCKIT_CACHE=tmp_path / "full")
    assert list(cache.places()) == [tmp_path / "full"]
    monkeypatch.setattr(cache, "_ROOM", 1 << 80)
    assert list(cache.places()) == [tmp_path / "full", fallback]
    assert cache.home() is None  # both are


def test_no_folder_at_all(environment, monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    environment(HPCKIT_CACHE="/dev/null/no")
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert cache.home() is None


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777, 0o772])
def test_a_folder_that_others_can_write_to_is_left_out_with_one_warning(
    environment, tmp_path, mode, caplog
):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    fallback = environment(HPCKIT_CACHE=tmp_path / "open")
    assert [cache.home() for _ in range(3)] == [fallback] * 3
    assert [str(tmp_path / "open") in record.getMessage() for record in caplog.records] == [True]


def test_a_folder_of_another_user_is_left_out(environment, tmp_path, monkeypatch, caplog):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if os.geteuid() == 0:
        os.chown(theirs, 12345, -1)
    else:
        monkeypatch.setattr(cache.os, "geteuid", lambda: 12345)
    environment(HPCKIT_CACHE=theirs)
    assert cache.home() != theirs
    assert "belongs to another user" in caplog.text


def test_what_is_made_is_never_open_to_others(environment, tmp_path):
    environment(HPCKIT_CACHE=tmp_path / "new")
    assert cache.home() == tmp_path / "new"
    before = os.umask(0)
    try:
        cache.write(tmp_path / "new" / "file", b"content")
    finally:
        os.umask(before)
    for path in (tmp_path / "new", tmp_path / "new" / "file"):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    assert cache.read(tmp_path / "new" / "file") == b"content"


def test_a_temporary_folder_that_is_a_link_is_left_out(environment, tmp_path):
    fallback = environment(HPCKIT_CACHE="/dev/null/no")
    (tmp_path / "elsewhere").mkdir()
    fallback.symlink_to(tmp_path / "elsewhere")
    assert cache.home() is None


def test_only_regular_files_of_ours_are_read(tmp_path):
    good = tmp_path / "good"
    cache.write(good, b"content")
    (tmp_path / "link").symlink_to(good)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "open").write_bytes(b"content")
    (tmp_path / "open").chmod(0o666)
    assert cache.read(good) == b"content"
    for name in ("link", "folder", "pipe", "huge", "open", "missing"):
        assert cache.read(tmp_path / name) is None, name


def test_files_are_on_disk_before_they_get_their_name(tmp_path, monkeypatch):
    order, replace, fsync = [], Path.replace, os.fsync
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (order.append("name"), replace(self, to))[1]
    )
    monkeypatch.setattr(cache.os, "fsync", lambda file: (order.append("disk"), fsync(file))[1])
    cache.write(tmp_path / "file", b"content")
    assert order == ["disk", "name"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_changes_nothing(tmp_path, monkeypatch):
    cache.write(tmp_path / "file", b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        cache.write(tmp_path / "file", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert cache.read(tmp_path / "file") == b"before"


@pytest.fixture
def busy(tmp_path):
    """A process in the middle of its work in a scratch folder of `tmp_path`."""
    code = "from hpckit import cache; from pathlib import Path\n"
    code += f"with cache.scratch(Path({str(tmp_path)!r})) as f:\n"
    code += "    (f / 'half').write_text('x'); print('there', flush=True); input()"
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
    ) as process:
        assert process.stdout and process.stdout.readline() == b"there\n"
        yield process
        process.kill()


def test_what_a_killed_process_leaves_is_removed(tmp_path, busy):
    (theirs,) = tmp_path.iterdir()
    with cache.scratch(tmp_path) as mine:
        assert (theirs / "half").exists()  # it lives
        assert mine.exists()
    busy.kill()
    busy.wait()
    assert theirs.exists()
    with cache.scratch(tmp_path):
        assert not theirs.exists()
    assert not list(tmp_path.iterdir())


def test_a_turn_is_one_process_s_at_a_time():
    with (
        cache.Turn("a test") as first,
        cache.Turn("a test") as second,
        cache.Turn("another test") as other,
    ):
        assert [first.taken(), first.taken(), second.taken(), other.taken()] == [
            True,
            True,
            False,
            True,
        ]
    with cache.Turn("a test") as again:
        assert again.taken()
