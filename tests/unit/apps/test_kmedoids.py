"""The k-medoids program from within: right on any ranks, restarts, one error for bad input."""

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpckit.apps.kmedoids.config import Config, Generate
from hpckit.apps.kmedoids.data import distances, generate, points
from hpckit.apps.kmedoids.estimate import estimate
from hpckit.apps.kmedoids.job import main
from hpckit.apps.kmedoids.pictures import plane
from hpckit.cluster import fasterpam, progress
from hpckit.errors import Checkpointed, ConfigError

CLOUDS = Generate(n=300, dimension=3, clouds=5)
METHODS = ("fasterpam", "pam", "alternate", "clara", "clarans", "onebatch", "fastermsc", "dynmsc")
WATCHED = ("fasterpam", "pam")


def _case(folder: Path, **more) -> Config:
    return Config(
        **{"generate": CLOUDS, "k": 7, "output": str(folder / "r"), "pictures": False, **more}
    )


def _results(config: Config) -> dict[str, np.ndarray]:
    with h5py.File(Path(config.output) / "result.h5") as file:
        return {name: data[:] for name, data in file.items()} | {
            "loss": np.array(file.attrs["loss"])
        }


def _equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def _between(points: np.ndarray, metric: str) -> np.ndarray:
    return distances(points, metric, np.arange(len(points)))


@pytest.mark.mpi
@pytest.mark.parametrize("method", METHODS)
def test_any_ranks_give_what_the_library_gives(comm, shared_path, method):
    config = _case(shared_path, method=method, seed=3)
    said = main(comm, config)
    from hpckit import cluster

    whole = generate(CLOUDS, 0, CLOUDS.n)
    found = getattr(cluster, method)(whole, 7, metric="euclidean", random_state=3)
    assert said["loss"] == found.loss and said["swaps"] == found.n_swap
    if comm.rank == 0:
        wanted = {
            "medoids": found.medoids,
            "labels": found.labels,
            "trace": found.trace,
            "loss": found.loss,
        }
        _equal(_results(config), wanted | {"centers": whole[found.medoids]})


@pytest.mark.mpi
@pytest.mark.parametrize(
    "name", ["points.npy", "points.npz", "points.h5", "points.csv", "matrix.npy"]
)
def test_files_give_what_the_library_gives(comm, shared_path, name):
    whole = np.random.default_rng(2).integers(0, 99, (40, 2)).astype(float)
    matrix = _between(whole, "manhattan")
    if comm.rank == 0:
        np.save(shared_path / "points.npy", whole)
        np.savez_compressed(shared_path / "points.npz", x=whole, y=matrix)
        with h5py.File(shared_path / "points.h5", "w") as file:
            file.create_dataset("x", data=whole, chunks=(7, 2))
        lines = [f"object {o},{a},{b}" for o, (a, b) in enumerate(whole)]
        (shared_path / "points.csv").write_text("\n".join(["name,a,b", *lines]))
        np.save(shared_path / "matrix.npy", matrix)
    comm.Barrier()
    how = {"metric": "precomputed" if name == "matrix.npy" else "manhattan", "k": 4}
    how |= {
        "variable": "x" if name == "points.npz" else "",
        "columns": (1, 3) if name == "points.csv" else None,
    }
    config = _case(shared_path, input=str(shared_path / name), **how)
    assert (
        main(comm, config)["loss"] == fasterpam(whole, 4, metric="manhattan", random_state=0).loss
    )
    if comm.rank == 0:
        assert ("centers" in _results(config)) == (name != "matrix.npy")


@pytest.mark.mpi
@pytest.mark.parametrize("method", WATCHED)
def test_restart_on_other_ranks_changes_no_bit(comm, shared_path, method):
    straight = _case(shared_path, method=method, init="first")
    main(comm, straight)
    stopped = _case(shared_path / "s", method=method, init="first", max_seconds=1e-6)
    if comm.rank == 0:  # one rank is asked to stop after its first step, and again, all ranks go on
        from mpi4py import MPI

        for _ in range(2):
            with pytest.raises(Checkpointed, match="run again with --resume"):
                main(MPI.COMM_SELF, stopped)
            stopped.resume = True
    comm.Barrier()
    stopped.max_seconds, stopped.resume = 0.0, True
    main(comm, stopped)
    _equal(_results(straight), _results(stopped))


@pytest.mark.mpi
def test_a_signal_to_one_rank_stops_all_with_a_checkpoint(comm, shared_path, monkeypatch):
    step = progress.Progress.step

    def signalled(search, *arguments, **options):
        if comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        step(search, *arguments, **options)

    monkeypatch.setattr(progress.Progress, "step", signalled)
    config = _case(shared_path)
    with pytest.raises(Checkpointed, match=r"stopped after \d+ swaps, in pass 1 \(\d+ %\)"):
        main(comm, config)
    assert list(Path(config.output).glob("checkpoint/*.json"))
    assert not (Path(config.output) / "result.h5").exists()


@pytest.mark.mpi
def test_restart_refuses_another_case(comm, shared_path):
    config = _case(shared_path, max_seconds=1e-6)
    with pytest.raises(Checkpointed):
        main(comm, config)
    config.resume, config.k = True, 8
    with pytest.raises(ConfigError, match=r"of another case.*leave out --resume"):
        main(comm, config)
    config.k, config.generate = 7, Generate(n=300, dimension=3, clouds=5, seed=1)
    with pytest.raises(
        ConfigError, match="resume with the data and the arguments of the run that stopped"
    ):
        main(comm, config)


@pytest.mark.mpi
@pytest.mark.parametrize("metric", ["euclidean", "precomputed"])
def test_pictures(comm, shared_path, metric):
    config = _case(shared_path, metric=metric, pictures=True)
    if metric == "precomputed":
        config.input = str(shared_path / "matrix.npy")
        if comm.rank == 0:
            np.save(config.input, _between(generate(CLOUDS, 0, 60), "euclidean"))
        comm.Barrier()
    main(comm, config)
    for name in ("clusters.png", "silhouettes.png", "loss.png"):
        assert (Path(config.output) / name).stat().st_size > 5000


@pytest.mark.mpi
def test_the_picture_of_scores_and_those_of_one_cluster(comm, shared_path):
    main(comm, _case(shared_path / "many", method="dynmsc", pictures=True))
    main(comm, _case(shared_path / "one", k=1, pictures=True))
    main(comm, _case(shared_path / "single", k=1, generate=Generate(n=1), pictures=True))
    pictures = comm.bcast(
        {
            folder: {f.name for f in shared_path.glob(f"{folder}/r/*.png")}
            for folder in ["many", "one", "single"]
        }
    )
    assert pictures["many"] >= {"scores.png", "silhouettes.png"}
    assert "clusters.png" in pictures["one"] and "silhouettes.png" not in pictures["one"]
    assert not pictures["single"]


@pytest.mark.mpi
@pytest.mark.parametrize("memory", ["free", "ticks.h5"])
def test_distances_elsewhere_change_no_bit(comm, shared_path, memory):
    kept, other = _case(shared_path / "kept"), _case(shared_path / "other")
    other.memory = str(shared_path / memory) if memory.endswith("h5") else memory
    main(comm, kept)
    main(comm, other)
    _equal(_results(kept), _results(other))


BAD = {
    "missing": ({"input": "none.npy"}, "there is no file"),
    "three dimensions": ({"input": "cube.npy"}, "a table has rows and columns"),
    "not square": ({"input": "points.npy", "metric": "precomputed"}, "must be square"),
    "nan": ({"input": "nan.npy"}, "must be finite"),
    "no input": ({"metric": "precomputed"}, "needs an input"),
    "too few": ({"k": 301}, "only 300 objects: --k must be 1 to 300"),
    "no block": ({"method": "pam", "block": 3}, "block = 3, but method 'pam' has no block"),
    "no checkpoints": (
        {"method": "alternate", "max_seconds": 1.0},
        "only fasterpam and pam have them",
    ),
    "output below a file": ({"output": "points.npy/r"}, "cannot write results to"),
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error_on_all_ranks(comm, shared_path, name):
    if comm.rank == 0:
        np.save(shared_path / "points.npy", np.ones((8, 2)))
        np.save(shared_path / "cube.npy", np.ones((8, 8, 8)))
        np.save(shared_path / "nan.npy", np.full((8, 2), np.nan))
    comm.Barrier()
    wrong, message = BAD[name]
    config = _case(shared_path, **wrong)
    config.input = config.input and str(shared_path / config.input)
    config.output = str(shared_path / config.output)
    with pytest.raises(ConfigError, match=message) as caught:
        main(comm, config)
    assert len(set(comm.allgather(str(caught.value)))) == 1
    assert not (Path(config.output) / "result.h5").exists()


def test_points_do_not_depend_on_who_generates_them():
    clouds = Generate(n=40_000, dimension=2)
    whole = generate(clouds, 0, 40_000)
    parts = [
        generate(clouds, start, stop)
        for start, stop in ((0, 1), (1, 16384), (16384, 39_999), (39_999, 40_000))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(generate(clouds, 7, 7)) == 0


def test_weak_scaling_keeps_the_distances_of_a_rank():
    clouds = Generate(n=1000, per_rank=True)
    assert [points(clouds, ranks) ** 2 // ranks for ranks in (1, 4, 16)] == [1000**2] * 3


def test_an_estimate_is_arithmetic():
    text = estimate(Config(generate=Generate(n=20_000)), 4)
    assert "20,000 x 20,000, 400 MB per rank" in text


def test_a_plane_through_points_on_a_plane_keeps_their_distances():
    flat = np.random.default_rng(5).normal(size=(50, 2))
    solid = flat @ np.array([[0.6, 0.8, 0], [0, 0, 1]])
    for landmarks in (np.arange(3), np.arange(10)):
        drawn = plane(distances(solid, "euclidean", landmarks), landmarks)
        np.testing.assert_allclose(
            _between(drawn, "euclidean"), _between(flat, "euclidean"), atol=1e-5
        )


def test_a_plane_through_points_on_a_line_or_at_one_place():
    line = np.outer(np.arange(5.0), [3, 4])
    drawn = plane(_between(line, "euclidean"), np.arange(5))
    np.testing.assert_allclose(_between(drawn, "euclidean"), _between(line, "euclidean"), atol=1e-5)
    np.testing.assert_array_equal(plane(np.zeros((4, 4)), np.arange(4)), 0)
