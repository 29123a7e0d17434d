"""What memory is left: limits that are given."""

import math

import pytest

from hpckit.machine import memory


@pytest.mark.parametrize(
    ("group", "folder", "limit", "used"),
    [
        ("0::/job/step", "job", "memory.max", "memory.current"),
        ("4:memory:/job/step", "memory/job", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_limits_of_control_groups_above_count(tmp_path, monkeypatch, group, folder, limit, used):
    """Of both versions: those of Slurm and of containers."""
    (tmp_path / folder / "step").mkdir(parents=True)
    (tmp_path / folder / "step" / limit).write_text("max\n")
    (tmp_path / folder / limit).write_text("1000\n")
    (tmp_path / folder / used).write_text("700\n")
    (tmp_path / folder / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    read = memory._read
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(
        memory, "_read", lambda path: group if path.name == "cgroup" else read(path)
    )
    assert memory._of_cgroup() == 500
    assert memory.available() <= 500


def test_without_control_groups_there_is_no_limit(monkeypatch):
    monkeypatch.setattr(memory, "_read", lambda path: "")
    assert memory._of_cgroup() == memory._of_node() == math.inf
