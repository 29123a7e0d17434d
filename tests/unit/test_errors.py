import pickle

import pytest

from hpckit.errors import Checkpointed, ConfigError, HpckitError, agree, ranges, same, together


def test_ranges_fold_runs():
    assert ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3, 7, 9-10"
    assert ranges([]) == ""


@pytest.mark.mpi
def test_no_failure_no_error(comm):
    agree(comm, None)
    with together(comm):
        pass


@pytest.mark.mpi
def test_one_failure_is_everybodys(comm):
    last = comm.size - 1
    with pytest.raises(HpckitError) as caught, together(comm):
        int("1" if comm.rank < last else "bad")
    where = f"1 of {comm.size} ranks failed: rank {last}: " if comm.size > 1 else ""
    assert str(caught.value) == f"{where}ValueError: invalid literal for int() with base 10: 'bad'"
    assert isinstance(caught.value.__cause__, ValueError) == (comm.rank == last)


@pytest.mark.mpi(min_size=3)
def test_equal_causes_are_grouped(comm):
    error = ValueError("odd") if comm.rank % 2 else KeyError("first") if comm.rank == 0 else None
    odd = ranges(range(1, comm.size, 2))
    with pytest.raises(HpckitError) as caught:
        agree(comm, error)
    plural = "s" * (comm.size > 3)
    count = 1 + comm.size // 2
    assert str(caught.value) == (
        f"{count} of {comm.size} ranks failed: rank 0: KeyError: 'first'; rank{plural} {odd}: "
        "ValueError: odd"
    )


@pytest.mark.mpi
@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (Checkpointed, 75), (HpckitError, 1)])
def test_the_kind_of_error_survives(comm, kind, code):
    with pytest.raises(HpckitError, match="why") as caught:
        agree(comm, kind("why") if comm.rank == 0 else None)
    assert type(caught.value) is kind
    assert caught.value.exit_code == code


@pytest.mark.mpi
@pytest.mark.parametrize(
    "error", [ValueError("odd"), UnicodeError("odd"), TypeError("odd"), MemoryError("odd")]
)
def test_what_all_failed_of_is_caught_as_on_one_rank(comm, error):
    kind = next(base for base in (ValueError, TypeError, MemoryError) if isinstance(error, base))
    for failed in (comm.rank == comm.size - 1, True):
        with pytest.raises(kind, match=f"{type(error).__name__}: odd") as caught:
            agree(comm, error if failed else None)
        assert isinstance(caught.value, HpckitError) and caught.value.exit_code == 1
        assert type(pickle.loads(pickle.dumps(caught.value))) is type(caught.value)
        with pytest.raises(kind):  # an agreement within an agreement
            agree(comm, caught.value)


@pytest.mark.mpi
def test_files_that_all_ranks_miss(comm, tmp_path):
    with pytest.raises(OSError, match="No such file") as caught, together(comm):
        (tmp_path / "missing").read_text()
    assert isinstance(caught.value, HpckitError)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("others", [TypeError("b"), HpckitError("b"), KeyError("b")])
def test_causes_of_two_classes_are_of_neither(comm, others):
    with pytest.raises(HpckitError) as caught:
        agree(comm, ValueError("a") if comm.rank == 0 else others)
    assert type(caught.value) is HpckitError


@pytest.mark.mpi(min_size=2)
def test_mixed_kinds_are_a_plain_failure(comm):
    with pytest.raises(HpckitError) as caught:
        agree(comm, ConfigError("a") if comm.rank == 0 else ValueError("b"))
    assert type(caught.value) is HpckitError


@pytest.mark.mpi
def test_the_same_error_everywhere_is_told_once(comm):
    with pytest.raises(ConfigError) as caught:
        agree(comm, ConfigError("too few cells"))
    assert str(caught.value) == "too few cells"


@pytest.mark.mpi
def test_exits_are_not_swallowed(comm):
    with pytest.raises(KeyboardInterrupt), together(comm):
        raise KeyboardInterrupt


@pytest.mark.mpi
def test_same_values_pass(comm):
    same(comm, "the shape", (3, 4))


@pytest.mark.mpi(min_size=2)
def test_different_values_name_the_ranks(comm):
    with pytest.raises(ConfigError) as caught:
        same(comm, "the shape", (3, 5 if comm.rank == 1 else 4))
    assert str(caught.value).startswith("the shape must be the same on all ranks, but rank")
    assert "rank 1: (3, 5)" in str(caught.value)
