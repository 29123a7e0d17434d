"""A bundle adjustment that its callback stops ends on all ranks, and resumes as if it had not."""

import numpy as np
import pytest

from hpckit.errors import ConfigError
from hpckit.sfm import bundle_adjust, synthetic


def _start(comm):
    return synthetic.turntable(comm, 6, 80, seed=2).start


@pytest.mark.mpi
@pytest.mark.parametrize("after", [0, 1, 3])
def test_one_rank_s_wish_is_enough_and_resuming_changes_no_bit(comm, shared_path, after):
    whole, numbers = _start(comm), []
    result = bundle_adjust(whole, ftol=1e-14, callback=lambda each: numbers.append(each.number))
    assert numbers == list(range(len(result.history)))
    cut = _start(comm)
    stopped = bundle_adjust(
        cut,
        ftol=1e-14,
        checkpoint=shared_path / "c",
        checkpoint_every=2,
        callback=lambda each: each.number == after and comm.rank == comm.size - 1,
    )
    assert stopped.termination == "stopped" and stopped.history[-1].number == after
    assert [each.cost for each in stopped.history] == [
        each.cost for each in result.history[: after + 1]
    ]
    again = _start(comm)
    resumed = bundle_adjust(again, ftol=1e-14, checkpoint=shared_path / "c", resume=True)
    assert resumed.termination == result.termination
    assert [each.cost for each in resumed.history] == [each.cost for each in result.history]
    np.testing.assert_array_equal(again.points.xyz, whole.points.xyz)
    np.testing.assert_array_equal(again.images.translation, whole.images.translation)


@pytest.mark.mpi
def test_what_the_callback_returns_otherwise_stops_nothing(comm):
    model = _start(comm)
    result = bundle_adjust(model, callback=lambda each: np.ones(3))
    assert result.converged


@pytest.mark.mpi
def test_an_error_of_the_callback_is_everyone_s_and_changes_nothing(comm):
    model = _start(comm)
    before = model.points.xyz.copy()

    def fail(iteration):
        if comm.rank == 0 and iteration.number == 1:
            raise ConfigError("that is enough")

    with pytest.raises(ConfigError, match="that is enough"):
        bundle_adjust(model, callback=fail)
    np.testing.assert_array_equal(model.points.xyz, before)


@pytest.mark.mpi
@pytest.mark.parametrize("every", [1, 100])
def test_a_finished_solve_has_nothing_left_to_do(comm, shared_path, every):
    options = {"checkpoint": shared_path / "c", "checkpoint_every": every}
    first = _start(comm)
    result = bundle_adjust(first, **options)
    assert result.converged
    heard, again = [], _start(comm)
    resumed = bundle_adjust(again, resume=True, callback=heard.append, **options)
    assert not heard and resumed.termination == result.termination
    assert [each.cost for each in resumed.history] == [each.cost for each in result.history]
    np.testing.assert_array_equal(again.points.xyz, first.points.xyz)
    np.testing.assert_array_equal(again.images.quaternion, first.images.quaternion)
    further = bundle_adjust(_start(comm), resume=True, ftol=1e-14, gtol=0.0, **options)
    assert len(further.history) > len(result.history) and further.cost <= result.cost
