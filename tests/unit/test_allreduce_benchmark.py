"""The allreduce benchmark: peers add up, ratios are right, and it says what it cannot do."""

import numpy as np
import pytest

from benchmarks.allreduce import Regret, ratio, without_netlab


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["ring_by_hand", "star_of_tpi_llm"])
@pytest.mark.parametrize("n", [1, 7, 1000])
def test_peers_sum(comm, name, n):
    from benchmarks import _allreduce
    from hpckit.apps.allreduce.timing import Numbers

    numbers = Numbers(comm, np.zeros(n))
    for call in (1, 2):
        numbers.write(call)
        getattr(_allreduce, name)(comm, numbers.array)
        assert numbers.check(call)
        comm.Barrier()  # the star's master takes messages as they come


@pytest.mark.mpi
def test_native_leaves_its_input_alone(comm):
    from benchmarks._allreduce import natives
    from hpckit.apps.allreduce.timing import Numbers

    for call in natives(comm, Numbers(comm, np.zeros(5))).values():
        call.numbers.write(3)
        before = call.numbers.array.copy()
        call.run()
        assert call.numbers.check(3)
        assert (call.numbers.result is call.numbers.array) != np.array_equal(
            call.numbers.array, before
        ) or comm.size == 1


@pytest.mark.mpi
def test_compressed_sums_are_judged_by_their_bound(comm):
    from benchmarks._allreduce import Rough
    from hpckit.collectives import Allreduce
    from hpckit.lossy import Quantised

    array = np.zeros(600, np.float32)
    plan = Allreduce(comm, array, algorithm=Quantised("int8"))
    numbers = Rough(comm, array, plan)
    for call in range(4):
        numbers.write(call)
        plan()
        assert numbers.read(call)
    numbers.write(4)
    plan()
    array += 1000
    assert not numbers.read(4)


def test_ratios_are_of_medians():
    assert ratio([2.0, 2.0, 9.0], [1.0, 1.0, 0.1]) == (2.0, 2.0, pytest.approx(90.0))
    assert ratio([3.0] * 5, [2.0] * 5, least=1.0) == (
        2.0,
        2.0,
        2.0,
    )  # what is exposed of a producer's second


def test_regret_counts_cases():
    regret, rows = Regret(), []
    regret.see({"8 B": {"native, in place": [2.0], "ring": [1.0], "auto": [1.1], "native": [0.1]}})
    regret.see(
        {"8 B": {"ring": [1.0], "shared, window": [0.5], "auto": [1.2], "auto, window": [0.5]}}
    )

    class Report:
        def add(self, *row):
            rows.append(row)

    regret.add_to(Report())
    assert rows[0][2] == pytest.approx(2 / 3)


def test_it_says_why_there_are_no_slow_links(tmp_path):
    assert "HPCKIT_NETLAB" in without_netlab(None)
    assert "HPCKIT_NETLAB" in without_netlab(tmp_path)
