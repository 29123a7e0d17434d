"""Trainers agree: all go on, or none."""

import time

import pytest

from hpckit.errors import HpckitError
from hpckit.surrogate.agreement import Agreement

several = pytest.mark.mpi(min_size=2)


def test_the_smallest_of_each_number(comm, alarm):
    agreement = Agreement(comm, alarm, 60.0)
    assert agreement.smallest() == ()
    assert agreement.smallest(comm.rank, 5, -comm.rank) == (0, 5, 1 - comm.size)


@several
def test_whoever_has_come_goes_on_where_all_have(comm, alarm):
    """Though the others hear of an error while they wait for rank 0."""
    agreement = Agreement(comm, alarm, 60.0)
    if comm.rank == 0:
        alarm.ring(HpckitError("trouble"))
        time.sleep(0.05)
    else:
        with pytest.raises(HpckitError, match="rank 0: trouble"):
            alarm.wait(lambda: False, 60.0, lambda: "nobody")
    assert agreement.smallest(comm.rank, 7) == (0, 7)


def train(alarm, agreement, work):
    """As trainers do."""
    with alarm.guard():
        try:
            work()
        except HpckitError:
            agreement.fail()
            raise


@several
def test_nobody_goes_on_without_a_trainer_that_failed(comm, alarm):
    def work():
        if comm.rank == 0:
            raise HpckitError("trouble")
        agreement.smallest(comm.rank)

    agreement = Agreement(comm, alarm, 60.0)
    with pytest.raises(HpckitError, match=r"^rank 0: trouble$"):
        train(alarm, agreement, work)
    agreement.fail()  # as often as one likes


@several
def test_a_trainer_that_does_not_come_is_an_error(comm, alarm):
    def work():
        if comm.rank == 0:
            alarm.wait(lambda: False, 60.0, lambda: "nobody")
        agreement.smallest(1)

    agreement = Agreement(comm, alarm, 0.2)
    with pytest.raises(HpckitError, match=r"waited 0\.2 s for the other trainers"):
        train(alarm, agreement, work)
