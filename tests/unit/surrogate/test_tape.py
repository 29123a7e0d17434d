"""Tapes: what is recorded is read again, to the bit, also after a process that was killed."""

import json
import signal
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
from counting import Counting
from mpi4py import MPI

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.message import message_dtype
from hpckit.surrogate.recording import Description
from hpckit.surrogate.tape import Tape


def _messages(solver, numbers):
    """All steps of simulations, whose parameters are known by their numbers, in turns."""
    size = Description.of(solver).size
    message = np.zeros(1, message_dtype(2, size))[0]
    for step in range(solver.steps):
        for number in numbers:
            message["simulation"], message["step"] = number, step
            message["time"] = 0.5 * (step + 1)
            message["parameters"] = number, 0.5
            message["values"] = 1000 * number + step + np.arange(size) / 10
            yield message


def _check(simulation, steps, size):
    number = simulation.number
    np.testing.assert_array_equal(simulation.parameters, [number, 0.5])
    np.testing.assert_array_equal(simulation.times, 0.5 * np.arange(1, steps + 1))
    wanted = 1000 * number + np.arange(steps)[:, None] + np.arange(size) / 10
    np.testing.assert_array_equal(simulation.values, wanted.astype(np.float32))


@pytest.mark.mpi
def test_what_trainers_record_is_one_tape(comm, shared_path):
    solver = Counting(steps=3)
    recording = Tape.create(shared_path / "tape", comm, solver)
    mine = [number for number in range(11) if number % comm.size == comm.rank]
    for message in _messages(solver, [-1 - number for number in mine[:2]]):
        recording.write(message)
    for message in _messages(solver, mine):
        recording.write(message)
    recording.close()
    comm.Barrier()
    tape = Tape.open(shared_path / "tape")
    tape.check(solver)
    assert tape.simulations == list(range(11))
    assert tape.validation == [-1 - n for n in range(min(11, 2 * comm.size))]
    for number in tape.simulations + tape.validation:
        _check(tape.read(number), 3, 8)
    np.testing.assert_array_equal(tape.parameters[:, 0], np.arange(11))


@pytest.mark.mpi
def test_a_source_gives_every_step_once(comm, shared_path):
    solver = Counting(steps=3)
    recording = Tape.create(shared_path / "tape", comm, solver)
    if comm.rank == 0:
        for message in _messages(solver, [-1, 0, 1, 2]):
            recording.write(message)
    recording.close()
    comm.Barrier()
    tape = Tape.open(shared_path / "tape")
    source = tape.source([2, 0], validation=1, received={2: 2, 0: 3, -1: 0}.get)
    came = []
    while not source.over:
        message = source.peek()
        assert message is source.peek()
        np.testing.assert_array_equal(
            message["values"], tape.read(message["simulation"]).values[message["step"]]
        )
        came.append((int(message["simulation"]), int(message["step"]), float(message["time"])))
        source.drop()
    assert came == [(-1, 0, 0.5), (-1, 1, 1.0), (-1, 2, 1.5), (2, 2, 1.5)]
    assert source.peek() is None
    shares = [tape.source([0, 1, 2], trainer, 2, 1) for trainer in range(2)]
    assert [int(share.peek()["simulation"]) for share in shares] == [-1, 1]
    with pytest.raises(ConfigError, match="has 1 whole simulations for validation, but 2 are"):
        tape.source([0], validation=2)


def test_files_hold_so_many_simulations(tmp_path, monkeypatch):
    monkeypatch.setattr("hpckit.surrogate.recording._FILE", 4 * 3 * 8 * 2)
    solver = Counting(steps=3)
    recording = Tape.create(tmp_path / "tape", MPI.COMM_SELF, solver)
    for message in _messages(solver, range(13)):  # more files than are held open
        recording.write(message)
    recording.close()
    assert len(list((tmp_path / "tape").glob("simulations-*.h5"))) == 7
    tape = Tape.open(tmp_path / "tape")
    for number in range(13):
        _check(tape.read(number), 3, 8)


def test_files_say_for_themselves_what_they_hold(tmp_path):
    solver = Counting(steps=2)
    solver.about = {"equation": "u_t = 1", "values": "points"}
    recording = Tape.create(tmp_path, MPI.COMM_SELF, solver)
    for message in _messages(solver, [0]):
        recording.write(message)
    recording.close()
    with h5py.File(next(tmp_path.glob("*.h5"))) as file:
        said = json.loads(file.attrs["tape"])
        assert said["about"] == {"equation": "u_t = 1", "values": "points"}
        assert said["fields"] == {"u": [2, 3], "v": [2]}
        assert said["parameters"] == {"key": [0.0, 1000.0], "other": [-1.0, 1.0]}
        assert file["values"].shape[1:] == (2, 8)
    assert json.loads((tmp_path / "tape.json").read_text()) == said


def test_what_is_not_whole_does_not_count_and_is_gone_on_with(tmp_path):
    solver = Counting(steps=3)
    whole = [message.copy() for message in _messages(solver, range(4))]
    recording = Tape.create(tmp_path, MPI.COMM_SELF, solver)
    for message in whole[:10]:  # two of the last steps are missing
        recording.write(message)
    recording.close()
    assert Tape.open(tmp_path).simulations == [0, 1]
    again = Tape.create(tmp_path, MPI.COMM_SELF, solver, resume=True)
    for message in whole[9:]:  # one comes a second time
        again.write(message)
    again.close()
    tape = Tape.open(tmp_path)
    assert tape.simulations == [0, 1, 2, 3]
    for number in range(4):
        _check(tape.read(number), 3, 8)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from mpi4py import MPI
from counting import Counting
from test_tape import _messages
from hpckit.surrogate.tape import Tape
solver = Counting(steps=3)
recording = Tape.create(sys.argv[1], MPI.COMM_SELF, solver)
for count, message in enumerate(_messages(solver, range(5)), 1):
    recording.write(message)
    if count == 12:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_what_was_whole_is_there(tmp_path, mpirun):
    (tmp_path / "killed.py").write_text(KILLED)
    done = mpirun(None, "killed.py", "tape", str(Path(__file__).parent), cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stdout
    tape = Tape.open(tmp_path / "tape")
    assert tape.simulations == [0, 1]
    _check(tape.read(1), 3, 8)


def _other(**change):
    solver = Counting(steps=3)
    for name, value in change.items():
        setattr(solver, name, value)
    return solver


@pytest.mark.mpi
def test_bad_tapes_are_one_error(comm, shared_path):
    solver = Counting(steps=3)
    with pytest.raises(ConfigError, match=r"there is no tape in .*: record one"):
        Tape.open(shared_path / "none")
    Tape.create(shared_path / "tape", comm, _other(steps=9)).close()  # nothing is recorded
    recording = Tape.create(shared_path / "tape", comm, solver)
    recording.write(next(_messages(solver, [comm.rank])))
    recording.close()
    comm.Barrier()
    with pytest.raises(ConfigError, match=r"there is a tape in .* already"):
        Tape.create(shared_path / "tape", comm, solver)
    tape = Tape.open(shared_path / "tape")
    with pytest.raises(ConfigError, match="has 0 whole simulations, but 1 are wanted"):
        tape.first(None)
    for change, text in (
        ({"steps": 4}, "with steps 3 instead of 4"),
        ({"fields": {"u": (2, 3)}}, "with fields"),
        ({"fields": {"v": (2,), "u": (2, 3)}}, "with fields"),  # in another order
        ({"about": {"kappa": 2.0}}, "with about {} instead of {'kappa': 2.0}"),
        (
            {"space": types.SimpleNamespace(names=("key",), low=np.zeros(1), high=np.ones(1))},
            "with parameters",
        ),
    ):
        with pytest.raises(ConfigError, match=text):
            tape.check(_other(**change))
        with pytest.raises(ConfigError, match=text):
            Tape.create(shared_path / "tape", comm, _other(**change), resume=True)
    comm.Barrier()
    if comm.rank == 0:
        (shared_path / "tape/tape.json").write_text("{")
    comm.Barrier()
    with pytest.raises(ConfigError, match=r"tape\.json cannot be read as that of a tape"):
        Tape.open(shared_path / "tape")


def test_damaged_files_and_full_disks_say_so(tmp_path, monkeypatch):
    solver = Counting(steps=1)
    recording = Tape.create(tmp_path, MPI.COMM_SELF, solver)
    message = next(_messages(solver, [0]))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", full)
        with pytest.raises(HpckitError, match=r"cannot write .*h5: No space"):
            recording.write(message)
    recording.write(message)
    recording.close()
    file = next(tmp_path.glob("*.h5"))
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(HpckitError, match="cannot read the tape's file"):
        Tape.open(tmp_path)
