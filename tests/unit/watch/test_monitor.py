"""The monitor decides, however late; only who is gone is not waited for."""

import time

import pytest

from hpckit.watch import Watch, monitor


@pytest.mark.mpi
def test_rank_0_that_answers_late_is_waited_for(comm, monkeypatch, caplog):
    decide = monitor._Monitor._decide

    def late(self, *arguments):
        time.sleep(1)
        decide(self, *arguments)

    monkeypatch.setattr(monitor._Monitor, "_decide", late)
    monkeypatch.setattr(monitor, "_ANSWER", 0.05)
    with Watch(comm, check=True) as watched:
        watched.watch._line._patience = 0.05  # this rank's, not the monitor's
        assert watched.allreduce(1) == comm.size
    messages = [record.message for record in caplog.records if record.name == monitor.__name__]
    assert len(messages) == 2  # for the end of the watch, too
    assert (
        "rank 0 does not say whether all ranks come to collective 1 of the watch, for longer than"
        in messages[0]
    )


@pytest.mark.mpi(min_size=2)
def test_all_are_answered_before_rank_0_goes_on(comm, monkeypatch):
    """A communicator's first `allreduce` blocks all threads of a rank until the others come."""
    send = monitor.Stream.send

    def slowly(self, *message):
        send(self, *message)
        time.sleep(0.2 * (message[0] == "verdict"))

    monkeypatch.setattr(monitor.Stream, "send", slowly)
    with Watch(comm, check=True) as watched:
        assert watched.allreduce(1) == comm.size


PROGRAM = """
import time
from mpi4py import MPI
from hpckit.watch import Watch
from hpckit.errors import HpckitError

with Watch(MPI.COMM_WORLD, check=True) as watched:
    if watched.rank == 0:
        raise ValueError("no")
    time.sleep(1)  # rank 0 ends meanwhile
    try:
        watched.Barrier()
    except HpckitError as error:
        print("told:", error, flush=True)
"""


def test_rank_0_answers_although_its_program_has_ended(mpirun, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    job = mpirun(2, str(tmp_path / "program.py"))
    assert "told: collective 1 of the watch waits for rank 0" in job.stdout
    assert "rank 0: has left the watch by ValueError: no" in job.stdout
