"""Kill ranks of a study again and again: no step is lost or taken twice, and bits stay the same.

    python tests/system/kill_surrogates.py --kills 50
    python tests/system/kill_surrogates.py --kills 50 --schedule free

Not a test, since it takes long; what came of it is in docs/reliability.md. Each time another rank
is killed, the trainer too, while the study starts, trains, saves or ends; then it is resumed, on
another number of ranks. What it has saved must be exactly the first steps of the rotation, or where
the schedule is free, each step once. At its end in lockstep network and tape must be those of a
study that nobody killed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from mpi4py import MPI

from hpckit.io.checkpoint import Checkpoint
from hpckit.surrogate.ledger import Ledger
from hpckit.surrogate.rotation import Rotation
from hpckit.surrogate.tape import Tape

PATIENCE = 300.0  # seconds until a job counts as hanging
LANES, VALIDATION, SOLVED = 8, 10, 100  # of the case; steps of a simulation
CASE = "quick --task run --pictures false --steps 300 --checkpoint-every 0.2 --deadline 120"
CASE += f" --validation.simulations {VALIDATION} --validation.every 100 --lanes {LANES}"


class Job:
    """A job of the program, on so many ranks."""

    def __init__(self, folder: Path, ranks: int, *more: str, options: Sequence[str]) -> None:
        mpirun = Path(sys.executable).with_name("mpirun")
        program = [sys.executable, "-m", "hpckit.apps.surrogate", *CASE.split()]
        places = ["--output", str(folder), "--tape", str(folder / "tape")]
        self.folder, self.ranks = folder, ranks
        self.process = subprocess.Popen(
            [str(mpirun), "-n", str(ranks), *program, *places, *options, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> str:
        """What it printed, after its end; RuntimeError where there is none."""
        try:
            return self.process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            self.process.terminate()
            raise RuntimeError(f"no end: {self.process.communicate()[0]}") from None

    def kill(self) -> int | None:
        """Kill any rank, by SIGKILL: the one that was hit."""
        found = {}
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                rank = child.environ().get("PMI_RANK", child.environ().get("PMIX_RANK"))
                if "hpckit.apps.surrogate" in child.cmdline() and rank is not None:
                    found[int(rank)] = child
            if found:
                rank = random.choice(sorted(found))
                found[rank].kill()
                return rank
        return None

    @property
    def over(self) -> bool:
        return self.process.poll() is not None


def newest(folder: Path) -> int:
    """The number of the newest checkpoint."""
    found = sorted(folder.glob("checkpoint/checkpoint-*.json"))
    return int(found[-1].stem.split("-")[1]) if found else -1


def await_moment(job: Job) -> None:
    """A moment at random, as a rule some checkpoints later, so that the study comes to its end."""
    starts = random.random() < 0.3
    wanted = newest(job.folder) + (0 if starts else random.randint(1, 3))
    limit = time.monotonic() + PATIENCE
    while newest(job.folder) < wanted and not job.over and time.monotonic() < limit:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 6.0 if starts else 0.4))


def saved_steps(folder: Path, schedule: str) -> int:
    """How many steps the newest checkpoint has; AssertionError where they are not the right ones.

    The newest is passed over where the kill has left it damaged, as a run does.
    """
    manifests = sorted(folder.glob("checkpoint/checkpoint-*.json"))
    if not manifests:
        return 0
    content = json.loads(manifests[-1].read_text())["checkpoint"]
    arrays = dict.fromkeys(each["name"] for each in content["arrays"])
    checkpoint = Checkpoint(folder / "checkpoint", MPI.COMM_SELF, rules="per rank")
    checkpoint.load(arrays)
    facts = json.loads(arrays["facts"].tobytes())
    ledger = Ledger(SOLVED)
    ledger.restore(facts["ledger"])
    total = ledger.total
    judged = sum(ledger.received(-1 - number) for number in range(VALIDATION))
    assert sum(facts["lanes"]) == total - judged, "more or fewer steps came than the ledger says"
    if schedule == "lockstep":
        order = Rotation(LANES, SOLVED, None, VALIDATION).turns(range(LANES))
        first = Counter(turn.simulation for turn in itertools.islice(order, total))
        right = all(ledger.received(simulation) == steps for simulation, steps in first.items())
        assert right, "not the first steps of the rotation"
    return total


def check_tape(folder: Path, reference: Path | None) -> int:
    """How many simulations it has; AssertionError where one is not whole or not the right one."""
    tape = Tape.open(folder / "tape")
    for number in (*tape.validation, *tape.simulations):
        mine = tape.read(number)
        assert np.all(np.diff(mine.times) > 0) and np.isfinite(mine.values).all()
        if reference:
            theirs = Tape.open(reference / "tape").read(number)
            assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    return len(tape.simulations)


def same_network(folder: Path, reference: Path) -> bool:
    """Whether losses, and what is predicted of validation samples, have the same bits."""
    mine, theirs = (np.load(each / "results.npz") for each in (folder, reference))
    names = ("losses", "scores", "errors", "predicted")
    return all(np.array_equal(mine[f"online/{k}"], theirs[f"online/{k}"]) for k in names)


def kill_and_resume(job_of: Callable[..., Job], folder: Path, schedule: str, kills: int) -> Counter:
    """Kill a study so often, or until it ends; how often that was the trainer, or a solver."""
    hit, steps = Counter(), 0
    while hit.total() < kills:
        job = job_of(folder, random.randint(2, 4), "--resume")
        await_moment(job)
        rank = job.kill()
        text = job.end()
        if job.process.returncode == 0:  # it came to its end before
            break
        assert rank is not None, text
        hit["trainer" if rank == 0 else "solver"] += 1
        before, steps = steps, saved_steps(folder, schedule)
        assert steps >= before, "a checkpoint was lost"
        print(f"rank {rank} of {job.ranks} killed, {steps} steps saved", flush=True)
    finish(job_of(folder, 3, "--resume"))
    return hit


def finish(job: Job) -> None:
    """It comes to a good end, and leaves nothing in shared memory."""
    text = job.end()
    assert job.process.returncode == 0, text
    assert not [path for path in Path("/dev/shm").iterdir() if "hpckit" in path.name]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--schedule", choices=("lockstep", "free"), default="lockstep")
    options = parser.parse_args()
    hit = Counter()
    for seed in itertools.count():
        if hit.total() >= options.kills:
            break
        job_of = partial(Job, options=("--seed", str(seed), "--schedule.kind", options.schedule))
        with tempfile.TemporaryDirectory() as place:
            killed, reference = Path(place, "killed"), Path(place, "reference")
            left = options.kills - hit.total()
            hit += kill_and_resume(job_of, killed, options.schedule, left)
            if options.schedule == "lockstep":
                finish(job_of(reference, 2))
                assert same_network(killed, reference), "another network"
            whole = check_tape(killed, reference if reference.exists() else None)
            print(f"study {seed}: {hit.total()} kills until now, {whole} whole simulations on tape")
    print(f"{options.schedule}: {hit.total()} kills {dict(hit)}, nothing lost")


if __name__ == "__main__":
    main()
