"""Rotation averaging and global positioning against COLMAP's: CPU time of one thread, and errors.

COLMAP runs in another interpreter, given by `--peer`, which has pycolmap. Both get the same pairs,
or the same rays, in memory; its building of a problem is not timed, ours of arrays is. Ways take
turns, each round has another random start, and the smallest CPU time of all rounds counts.
Rotations of BAL problems are those of the file; errors of centres are against the file's, after the
move and the scale that fit best, in per cent of the scene's extent.

    python -m benchmarks.sfm_global --peer ~/peer/bin/python --data ../shared/data
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._harness import Report, Times, parser, print_table
from hpckit.sfm import rotations
from hpckit.sfm.positioning import solve_positions
from hpckit.sfm.projection import unproject
from hpckit.sfm.rotation_averaging import average_rotations

OURS, PEER = "hpckit, 1 rank", "COLMAP"
ROUNDS = 5
Case = dict[str, Any]


def main() -> None:
    options = arguments().parse_args()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before libraries read them
        if os.environ.get(variable) != "1":
            os.environ[variable] = "1"
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.sfm_global", *sys.argv[1:]])
    report = Report("sfm_global")
    for name, case, target in cases(options.data, options.quick):
        compare(report, name, case, target, options.peer, 2 if options.quick else ROUNDS)
    report.print_targets()
    if options.json:
        report.save(options.json)


def arguments() -> argparse.ArgumentParser:
    found = parser("sfm_global")
    found.add_argument("--peer", metavar="PYTHON", help="an interpreter that has pycolmap")
    data = Path(os.environ.get("HPCKIT_DATA", "../shared/data"))
    found.add_argument("--data", type=Path, default=data, help="folder that has sfm/bal")
    return found


def cases(data: Path, quick: bool):
    """Name, arrays and the ratio to reach."""
    if quick:
        yield "rotations, 200 random", graph(200, 1900, 0.1), None
        return
    yield "rotations, 200 random", graph(200, 1900, 0.1), None
    yield "rotations, 1000 random", graph(1000, 9200, 0.1), 4.0
    yield "rotations, 1000 random, 30 % wrong", graph(1000, 9200, 0.3), 4.0
    yield "rotations, 1000 in a row", row(1000, 10, 0.1), 4.0
    yield "rotations, 5000 in a row", row(5000, 10, 0.1), 4.0
    yield "rotations, 5000 random", graph(5000, 71000, 0.1), 4.0
    for name in ("trafalgar-problem-21-11315-pre", "ladybug-problem-49-7776-pre"):
        path = data / "sfm/bal" / f"{name}.txt"
        if path.exists():
            yield f"positions, {name[:12]}", scene(path), 15.0
        else:
            print(f"skipped: there is no {path}: give --data or set HPCKIT_DATA")


def compare(
    report: Report, name: str, case: Case, target: float | None, peer: str | None, rounds: int
) -> None:
    """Ours and the peer's, in turns."""
    seconds: dict[str, list[float]] = {OURS: [], PEER: []}
    errors: dict[str, list[float]] = {OURS: [], PEER: []}
    ways: dict[str, Callable[[Case, int], tuple[float, np.ndarray]]] = {OURS: ours}
    if peer:
        ways[PEER] = lambda case, seed: theirs(peer, case, seed)
    else:
        print("skipped: COLMAP; give --peer an interpreter that has pycolmap")
    ours(case, 0)  # kernels are loaded, SciPy is imported
    for seed in range(rounds):
        for way, call in ways.items():
            cpu, result = call(case, seed)
            seconds[way].append(cpu)
            errors[way].append(error(case, result))
    rows = [(w, min(seconds[w]), np.median(errors[w]), max(errors[w])) for w in ways]
    unit = "deg" if case["stage"] == "rotations" else "%"
    print_table(("way", "CPU s", f"median {unit}", "of the worst run"), rows, name)
    if peer:
        best, other = (Times(np.array(seconds[way])) for way in (OURS, PEER))
        report.add(name, PEER, *best.ratio(other), target)


def ours(case: Case, seed: int) -> tuple[float, np.ndarray]:
    from mpi4py import MPI

    begin = time.process_time()
    if case["stage"] == "rotations":
        result, _ = average_rotations(MPI.COMM_SELF, case["n"], case["edges"], case["relative"])
    else:
        arrays = case["start"], case["image"], case["world"]
        result, _, _ = solve_positions(MPI.COMM_SELF, case["n"], *arrays, seed=seed)
    return time.process_time() - begin, result


def theirs(peer: str, case: Case, seed: int) -> tuple[float, np.ndarray]:
    """One run in the other interpreter; a failed one ends the benchmark with its message."""
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, seed=seed + 1, **case)
        program = Path(__file__).with_name("_colmap_global.py")
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [peer, str(program), str(given), str(made)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{peer} failed:\n{done.stderr[-2000:]}")
        with np.load(made) as result:
            return float(result["cpu"]), result["result"]


def error(case: Case, result: np.ndarray) -> float:
    """Median over images: degrees of rotations, per cent of the extent of centres."""
    if case["stage"] == "rotations":
        return float(np.median(turned(result, case["truth"])))
    return 100.0 * float(np.median(moved(result, case["truth"])))


def turned(q: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Degrees, after the turn of the world with the least sum of angles."""
    turn = rotations.multiply(rotations.conjugate(q), truth)
    best = np.linalg.eigh(turn.T @ turn)[1][:, -1]
    for _ in range(20):
        off = np.arccos(np.clip(abs(turn @ best), 0.0, 1.0))
        best = np.linalg.eigh(turn.T / np.maximum(off, 1e-4) @ turn)[1][:, -1]
    off = rotations.multiply(rotations.multiply(q, best), rotations.conjugate(truth))
    return np.degrees(np.linalg.norm(rotations.log(off), axis=1))


def moved(centres: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distances in parts of the extent, after the move and scale with the least sum of them."""
    a, b = centres - np.median(centres, axis=0), truth - np.median(truth, axis=0)
    for _ in range(50):
        weight = 1.0 / np.maximum(np.linalg.norm(a - b, axis=1), 1e-12)[:, None]
        a = a - (weight * (a - b)).sum(0) / weight.sum()
        a = a * ((weight * a * b).sum() / (weight * a * a).sum())
    return np.linalg.norm(a - b, axis=1) / np.linalg.norm(np.ptp(truth, axis=0))


def graph(n: int, pairs: int, wrong: float) -> Case:
    """A chain and random pairs, 1 degree of noise about each axis, some at random."""
    g = np.random.default_rng(1)
    chain = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    return _pairs(g, n, np.vstack([chain, g.integers(0, n, (pairs, 2))]), wrong)


def row(n: int, width: int, wrong: float) -> Case:
    """Each image with the next ones, and a few that come back."""
    g = np.random.default_rng(1)
    near = [np.stack([np.arange(n - k), np.arange(k, n)], axis=1) for k in range(1, width + 1)]
    return _pairs(g, n, np.vstack([*near, g.integers(0, n, (n // 20, 2))]), wrong)


def _pairs(g: np.random.Generator, n: int, edges: np.ndarray, wrong: float) -> Case:
    edges = np.unique(np.sort(edges[edges[:, 0] != edges[:, 1]], axis=1), axis=0)
    truth = rotations.normalise(g.normal(size=(n, 4)))
    noise = rotations.exp(np.radians(1.0) * g.normal(size=(len(edges), 3)))
    exact = rotations.multiply(truth[edges[:, 1]], rotations.conjugate(truth[edges[:, 0]]))
    relative = rotations.multiply(exact, noise)
    bad = g.random(len(edges)) < wrong
    relative[bad] = rotations.normalise(g.normal(size=(int(bad.sum()), 4)))
    return {"stage": "rotations", "n": n, "edges": edges, "relative": relative, "truth": truth}


def scene(path: Path) -> Case:
    """Rays of points that three images see; COLMAP's look along +z."""
    from mpi4py import MPI

    from hpckit.sfm.formats import read

    model = read(path, MPI.COMM_SELF)
    images, seen = model.images, model.observations
    views = np.diff(seen.start)
    kept = np.repeat(views >= 3, views)
    image = seen.image[kept]
    ray = unproject(model.cameras, images.camera[image], seen.xy[kept])
    back = rotations.conjugate(images.quaternion)
    flip = np.array([0.0, 1.0, 0.0, 0.0])  # half a turn about x
    return {
        "stage": "positions",
        "n": len(images),
        "start": np.concatenate([[0], np.cumsum(views[views >= 3])]),
        "image": image,
        "ray": ray * np.array([1.0, -1.0, -1.0]),
        "world": rotations.rotate(back[image], ray),
        "rotations": rotations.multiply(flip, images.quaternion),
        "truth": -rotations.rotate(back, images.translation),
    }


if __name__ == "__main__":
    main()
