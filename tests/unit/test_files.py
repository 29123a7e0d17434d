"""Files are replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from hpckit import files


def test_data_are_on_disk_before_the_name_is(tmp_path, monkeypatch):
    order, replace, fsync = [], Path.replace, os.fsync
    monkeypatch.setattr(Path, "replace", lambda a, b: (order.append("name"), replace(a, b))[1])
    monkeypatch.setattr(files.os, "fsync", lambda file: (order.append("disk"), fsync(file))[1])
    with files.replacing(tmp_path / "file") as draft:
        draft.write_text("content")
        assert not (tmp_path / "file").exists()
    assert order == ["disk", "name", "disk"]  # the data, then the folder
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_block_that_fails_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("before")

    def interrupted():
        with files.replacing(tmp_path / "file") as draft:
            draft.write_text("after")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "file"):
        pass  # nothing was written
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"
