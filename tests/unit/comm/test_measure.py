"""The machine model as it is measured: agreement among the ranks, and its file."""

import json
import math
from pathlib import Path

import pytest

from hpckit import native
from hpckit.comm import measure
from hpckit.comm.measure import with_steps
from hpckit.errors import HpckitError
from hpckit.machine.model import Model, with_links
from hpckit.machine.node_memory import NodeMemory

TABLE = {8: [(100, 1e-6), (10_000, 4e-6)], 32: [(100, 1e-6), (10_000, 1e-6)]}


@pytest.fixture
def cache(shared_path, monkeypatch):
    """An empty cache folder for all ranks; few points are measured, never ending early."""
    native.load("hpckit.comm.moves")  # else it would be compiled again for the empty cache
    monkeypatch.setenv("HPCKIT_CACHE", str(shared_path))
    settings = {
        "TIME": 1e-9,
        "LIMIT": 1e9,
        "SIZES": (512, 4096),
        "MESSAGES": (64, 4096),
        "AREA": 1 << 19,
    }
    for name, value in settings.items():
        monkeypatch.setattr(measure, name, value)
    return shared_path


def _model(comm) -> Model:
    """As a program does that starts anew."""
    again = comm.Dup()
    model = with_steps(again, NodeMemory(again))
    again.Free()
    return model


def _files(comm, cache: Path) -> list[Path]:
    comm.Barrier()
    found = sorted(cache.glob("model-*"))
    comm.Barrier()
    return found


@pytest.mark.mpi
def test_all_ranks_get_the_same_numbers(comm, cache):
    model = _model(comm)
    assert comm.allgather(model.steps) == [model.steps] * comm.size
    assert 0 < model.pack(1000, 8) < 1
    assert 0 < model.unpack(1000, 8) < 1
    steps = [
        model.message(1000),
        model.datatype(1000, 8),
        model.flag(),
        model.shared(1000, 8),
        model.direct(1000, 8),
    ]
    assert all(0 < seconds < 1 for seconds in steps) if comm.size > 1 else steps == [math.inf] * 5
    assert model.message(1000, same_node=False) == math.inf  # the tests run on one node


@pytest.mark.mpi
def test_more_bytes_take_no_less_time(comm, cache):
    model = _model(comm)
    for row in (8, 100, 4096):
        times = [model.pack(nbytes, row) for nbytes in (64, 1000, 50_000, 3_000_000)]
        assert times == sorted(times)


@pytest.mark.mpi
def test_measured_once(comm, cache):
    first = _model(comm)
    assert len(_files(comm, cache)) == 1
    assert _model(comm).steps == first.steps


@pytest.mark.mpi
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"pack"', '"park"'),
        lambda text: json.dumps(json.loads(text) | {"machine": {}}),
        lambda text: json.dumps(
            json.loads(text) | {"content": {"steps": {"pack": {"8": [[100, -1.0]]}}}}
        ),
    ],
)
def test_a_damaged_file_is_measured_again(comm, cache, damage):
    first = _model(comm)
    (path,) = _files(comm, cache)
    if comm.rank == 0:
        path.write_text(damage(path.read_text()))
    comm.Barrier()
    again = _model(comm)
    assert again.machine == first.machine
    assert again.steps.keys() == first.steps.keys()
    assert _model(comm).steps == again.steps


@pytest.mark.mpi
def test_too_little_shared_memory_is_told_and_not_kept(comm, cache, monkeypatch, caplog):
    def none(*_):
        raise HpckitError("there is no room")

    monkeypatch.setattr(NodeMemory, "zeros", none)
    model = _model(comm)
    assert model.shared(1000, 8) == model.direct(1000, 8) == model.flag() == math.inf
    assert bool(_files(comm, cache)) == (comm.size == 1)
    if comm.size > 1:
        assert model.message(1000) < 1
        assert any("there is no room" in text for text in comm.allgather(caplog.text))


@pytest.mark.mpi
def test_a_measurement_that_ended_early_is_not_kept(comm, cache, monkeypatch):
    monkeypatch.setattr(measure, "LIMIT", 0.0)
    model = _model(comm)
    assert 0 < model.pack(1000, 8) < 1
    assert not _files(comm, cache)


@pytest.mark.mpi
def test_printed_as_a_table(comm, cache):
    model = _model(comm)
    lines = str(model).splitlines()
    assert lines[0].startswith("host")
    assert any(line.startswith("unpack") for line in lines)
    assert "inf" not in str(Model(model.machine, (0,), {"pack": TABLE}))


@pytest.mark.mpi
def test_both_parts_are_in_one_file(comm, cache):
    """Whichever is measured first, and by whichever communicator's model."""
    first, second = comm.Dup(), comm.Dup()
    models = [Model.of(each, NodeMemory(each)) for each in (first, second)]
    assert [(model.steps, model.links) for model in models] == [({}, None)] * 2
    with_links(first, NodeMemory(first))
    with_steps(second, NodeMemory(second))
    assert len(_files(comm, cache)) == 1
    again = _model(comm)
    assert again.links and again.links.to_json() == models[0].links.to_json()
    assert again.steps == models[1].steps
    for each in (first, second):
        each.Free()


@pytest.mark.mpi(min_size=2)
def test_steps_are_not_measured_again_for_other_ranks(comm, cache):
    first = _model(comm)
    alone = comm.Split(0 if comm.rank < 2 else 1, comm.rank)
    if comm.rank < 2:
        assert _model(alone).steps == first.steps
    alone.Free()
    assert len(_files(comm, cache)) == 1
