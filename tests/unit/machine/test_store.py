"""Kept measurements: whole, of this machine and this kind, or not at all."""

import json
import random

import pytest

from hpckit.machine import store

MACHINE = {"host": "node", "hosts": ["a", "b"], "version": 1}
CONTENT = {"pack": {8: [(512, 1.25e-6), (4096, 3.0e-06)], 256: [(512, 1e-7)]}}
READ = {"pack": {"8": [[512, 1.25e-6], [4096, 3.0e-6]], "256": [[512, 1e-7]]}}


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The file in an empty cache that keeps `CONTENT`."""
    monkeypatch.setenv("HPCKIT_CACHE", str(tmp_path))
    store.write("kind", MACHINE, CONTENT)
    (path,) = tmp_path.iterdir()
    return path


def test_what_was_kept_is_read(path):
    assert store.read("kind", MACHINE) == READ
    assert store.read("other kind", MACHINE) is None
    assert store.read("kind", MACHINE | {"version": 2}) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "[" * 100_000,
        lambda text: text[:-1],
        lambda text: text.replace("1.25", "1.35"),
        lambda text: text.replace("512", "511"),
        lambda text: text.replace('"node"', '"mode"'),
        lambda text: json.dumps({**json.loads(text), "check": None}),
        lambda text: json.dumps(
            {key: value for key, value in json.loads(text).items() if key != "check"}
        ),
    ],
)
def test_a_damaged_file_is_none_and_replaced(path, damage):
    path.write_text(damage(path.read_text()))
    assert store.read("kind", MACHINE) is None
    store.write("kind", MACHINE, CONTENT)
    assert store.read("kind", MACHINE) == READ


def test_flipped_bits_change_no_number(path):
    content, rng = path.read_bytes(), random.Random(1)
    for _ in range(300):
        at = rng.randrange(len(content))
        path.write_bytes(
            content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
        )
        assert store.read("kind", MACHINE) in (None, READ)  # READ: of a space or the like


def test_the_file_of_another_machine_under_our_name(path, tmp_path):
    store.write("kind", MACHINE | {"version": 2}, CONTENT)
    (other,) = set(tmp_path.iterdir()) - {path}
    other.replace(path)
    assert store.read("kind", MACHINE) is None


def test_files_that_others_can_write_are_not_read(path):
    path.chmod(0o666)
    assert store.read("kind", MACHINE) is None


def test_no_folder_is_no_error(monkeypatch):
    monkeypatch.setattr(store.cache, "places", lambda: iter(()))
    store.write("kind", MACHINE, CONTENT)
    assert store.read("kind", MACHINE) is None
