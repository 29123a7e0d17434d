"""The halo program on devices: the files of a run on CPUs, checkpoints for either, refusals."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hpckit.apps.halo.config import Config
from hpckit.apps.halo.estimate import estimate
from hpckit.apps.halo.job import main
from hpckit.comm.places import open_device
from hpckit.errors import Checkpointed, ConfigError, HpckitError
from hpckit.pde import heat, tsunami
from hpckit.pde.heat import Heat
from hpckit.pde.tsunami import Source
from hpckit.program.report import copy_rate

KINDS = ["heat", "tsunami"]


@pytest.fixture
def case(comm, shared_path):
    """A small case, by its equation, folder and device."""
    if comm.rank == 0:
        rows, columns = np.mgrid[0:6, 0:7]
        np.save(shared_path / "relief.npy", -100.0 - 20 * rows + 30 * columns)
    comm.Barrier()

    def make(kind: str, folder: str, device: str, **keys) -> Config:
        keys |= {"output": str(shared_path / folder), "device": device, "pictures": False}
        keys = {"snapshots": 3, "steps": 12} | keys
        if kind == "heat":
            return Config(shape=(13, 12, 11), **keys)
        source = Source(longitude=0.05, latitude=0.05, length=4, width=3)
        return Config(
            equation="tsunami",
            tsunami=tsunami.Options(source=source),
            input=str(shared_path / "relief.npy"),
            shape=(6, 7),
            refine=3,
            bounds=(0.0, 0.2, 0.0, 0.2),
            **keys,
        )

    return make


def assert_same_results(one: Config, other: Config) -> None:
    """Bit for bit, in all snapshots."""
    results = []
    for config in (one, other):
        with h5py.File(Path(config.output) / f"{config.equation}.vtkhdf") as file:
            results.append({name: data[:] for name, data in file["VTKHDF/CellData"].items()})
    assert results[0].keys() == results[1].keys()
    for name, values in results[0].items():
        assert values.tobytes() == results[1][name].tobytes(), name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_devices_writes_what_one_on_cpus_does(comm, case, kind, dtype):
    here, there = (case(kind, device, device, dtype=dtype) for device in ("cpu", "stand-in"))
    found = [main(comm, config) for config in (here, there)]
    assert_same_results(here, there)
    for name, value in found[0].items():
        assert value == found[1][name] or name in ("written", "cell updates, million/s"), name


@pytest.mark.parametrize("order", [("cpu", "stand-in"), ("stand-in", "cpu")])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_restart_on_devices_and_on_cpus(comm, case, forget_signals, kind, order):
    straight = case(kind, "straight", "cpu")
    main(comm, straight)
    first = case(kind, "stopped", order[0], max_seconds=1e-6)
    with pytest.raises(Checkpointed, match="after 1 of 12 steps: run again with --resume"):
        main(comm, first)
    forget_signals()
    main(comm, case(kind, "stopped", order[1], resume=True))
    assert_same_results(straight, first)


def test_devices_are_said(comm, case, capfd):
    main(comm, case("heat", "r", "stand-in", snapshots=0))
    said = capfd.readouterr().out
    assert comm.rank or f"devices   {comm.size} x stand-in for a GPU" in said


def test_a_state_that_explodes_on_a_device_ends_the_run(comm, case, monkeypatch):
    def spoil(solver, dt):
        with solver.changing() as fields:
            fields["temperature"][solver.grid.owned][0] = np.nan

    monkeypatch.setattr(Heat, "step", spoil)
    with pytest.raises(HpckitError, match="the state holds NaN after 1 of 12 steps"):
        main(comm, case("heat", "r", "stand-in"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"equation": "burgers", "shape": (40,), "periodic": True}, "'burgers' with these options"),
        ({"heat": heat.Options(implicit=True)}, "'heat' with these options has no kernels"),
        ({"threads": 2}, "threads=2, but steps run on a device: use threads=1"),
        ({"method": "packed"}, "packed"),
    ],
)
def test_what_a_device_cannot_is_one_error_on_all_ranks(comm, shared_path, keys, message):
    config = Config(device="stand-in", output=str(shared_path / "r"), **{"shape": (8, 8)} | keys)
    with pytest.raises(ConfigError, match=message) as caught:
        main(comm, config)
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert not (shared_path / "r").exists()


def test_copying_is_timed_where_the_fields_are(comm):
    assert copy_rate(comm, 1 << 16, open_device(comm, "stand-in")) > 0


def test_dry_run_says_that_it_knows_no_device():
    text = estimate(Config(device="cuda"), 2)
    assert "unknown: the model of a machine is that of its CPUs" in text
