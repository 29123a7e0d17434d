"""The benchmark of GPUs runs all its sections on stand-ins, and says where one ends badly."""

import json

import pytest

from hpckit.names import DEVICE_HALO_METHODS

READABLE = {"HPCKIT_STAND_IN": "readable"}  # MPI takes addresses of such stand-ins


@pytest.fixture
def benchmark(mpirun):
    """Its results, of some sections."""

    def benchmark(*sections, **environment):
        words = ["--device", "stand-in", "--quick", "--only", ",".join(sections)]
        job = mpirun(None, "-m", "benchmarks.gpu", *words, **environment)
        assert job.returncode == 0, job.stdout
        lines = [line for line in job.stdout.splitlines() if line.startswith("{")]
        return [json.loads(line) for line in lines]

    return benchmark


def of(results, section):
    found = [each for each in results if each["section"] == section]
    assert found[0]["case"] == "begins"
    assert not any("code" in each for each in found), results
    return found[1:]


def test_one_process(benchmark):
    results = benchmark("moves_are_right", "pack", "launches", "staging")
    assert results[0]["section"] == "start" and results[-1]["section"] == "end"
    assert [each["right"] for each in of(results, "moves_are_right")] == [True]
    ways = {each["way"] for each in of(results, "pack")}
    assert ways == {"copy", "pack", "unpack"}
    assert all(each["GBps"] > 0 for each in of(results, "pack") + of(results, "staging"))
    assert {"launch", "two signals"} < {each["case"] for each in of(results, "launches")}


def test_ranks(benchmark):
    sections = "halos_are_right", "ways", "halos", "allreduces"
    results = benchmark(*sections, **READABLE)
    assert any("aware     yes" in line for line in results[1]["said"])
    right = of(results, "halos_are_right")
    assert {each["way"] for each in right} == {"auto", "datatypes", *DEVICE_HALO_METHODS}
    assert all(each["right"] for each in right), right
    for section in ("ways", "halos", "allreduces"):
        assert any(each.get("way") == "auto" and each["us"] > 0 for each in of(results, section))


def test_the_program(benchmark):
    rates = of(benchmark("program"), "program")
    assert len(rates) == 8
    assert all(each["cell updates, million/s"] > 0 for each in rates), rates


def test_a_section_that_dies_does_not_end_the_others(benchmark):
    results = benchmark("pack", "staging", HPCKIT_STAND_IN_DEVICES="0")
    codes = [each for each in results if "code" in each]
    assert [each["section"] for each in codes] == ["pack", "staging"]
    assert results[-1]["section"] == "end"
