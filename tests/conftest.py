"""Tests on several ranks that cannot deadlock: `mpirun -n 4 python -m pytest --with-mpi`.

Every rank runs the same tests. After each phase of a test all ranks meet in an `Ibarrier` on a
private communicator and share their outcomes, so that a failure on any rank is a failure on all of
them, and rank 0 alone reports. A rank that waits too long, or a test that takes longer than
`HPCKIT_TEST_PATIENCE` seconds (default 600), prints the stacks of all ranks and aborts the job.
Without `--with-mpi`, MPI is not even imported and its tests are skipped.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis.internal.conjecture import providers

PATIENCE = float(os.environ.get("HPCKIT_TEST_PATIENCE", "600"))
MPI_FIXTURES = {"comm", "shared_path"}
LAUNCHER_STATE = ("PMI_", "PMIX_", "HYDI_", "HYDRA_", "MPI_LOCAL")
LAUNCHER_STATE += ("OMPI_", "OPAL_", "PRTE_", "SLURM_")

# All ranks must draw the same examples; a rank that shrinks a failure alone would leave the others
# behind.
hypothesis.settings.register_profile(
    "ranks",
    derandomize=True,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("ranks")
# Nor may examples hold constants of the modules that are loaded: one rank may have loaded more than
# the others.
providers._get_local_constants = lambda: providers._local_constants


class Ranks:
    """The ranks of this session: who they are, and where they meet."""

    def __init__(self, with_mpi: bool) -> None:
        self.comm: Any = None
        self.rank = 0
        self.size = 1
        if with_mpi:
            from mpi4py import MPI

            self.comm = MPI.COMM_WORLD.Dup()
            self.rank = self.comm.rank
            self.size = self.comm.size
        self.test = "collection"
        self.stderr = os.dup(2)  # pytest captures 2 itself while tests run
        faulthandler.register(signal.SIGUSR2, file=self.stderr, all_threads=True)
        me = (socket.gethostname(), os.getpid())
        self.processes = self.comm.allgather(me) if self.comm else [me]

    def gather(self, item: object, note: str = "") -> list[Any]:
        """`item` of every rank, once all are here; else aborts the job, and says `note` last.

        A rank with a note, of its failure, waits half as long: others, in a collective that it has
        left, may wait for it.
        """
        request = self.comm.Ibarrier()
        delay = 1e-4
        began = time.monotonic()
        limit = PATIENCE / (4 if note else 2)
        while not request.Test():
            time.sleep(delay)
            delay = min(2 * delay, 0.01)
            if time.monotonic() - began > limit + 3 * self.rank:
                self.abort(f"rank {self.rank} waited {limit:g} s for the others\n{note}")
        return self.comm.allgather(item)

    def watchdog(self, patience: float) -> threading.Timer:
        """A timer, not yet started, that ends the job when the test takes too long."""
        message = f"no end after {patience:g} s on rank {self.rank}"
        timer = threading.Timer(patience + 3 * self.rank, self.abort, [message])
        timer.daemon = True
        return timer

    def abort(self, reason: str) -> None:
        """Print the stacks of all ranks on this host and why, and end the job with exit code 1."""
        for rank, (host, process) in enumerate(self.processes):
            os.write(self.stderr, f"\n--- rank {rank} on {host}\n".encode())
            if host == socket.gethostname():
                os.kill(process, signal.SIGUSR2)
                time.sleep(0.3)
        os.write(self.stderr, f"\n{self.test}: {reason}\n".encode())
        if self.comm:
            self.comm.Abort(1)
        os._exit(1)


RANKS = pytest.StashKey[Ranks]()
OWN = pytest.StashKey[str]()
SET_ASIDE: list[object] = []  # see `alone`


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Every rank has temporary folders of its own: in common ones ranks would clear up others'."""
    if config.option.basetemp is None:
        name = f"hpckit-pytest-{os.getpid()}-{time.time_ns()}"  # made when first used
        config.option.basetemp = config.stash[OWN] = str(Path(tempfile.gettempdir(), name))


def pytest_unconfigure(config: pytest.Config) -> None:
    if OWN in config.stash:
        shutil.rmtree(config.stash[OWN], ignore_errors=True)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    patience = "patience(seconds): for a test that may take longer than the others"
    config.addinivalue_line("markers", patience)
    ranks = config.stash[RANKS] = Ranks(config.getoption("--with-mpi"))
    if ranks.rank > 0:
        config.pluginmanager.unregister(name="terminalreporter")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take an MPI fixture are MPI tests; the others need no more than one rank."""
    for item in items:
        if MPI_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.mpi)
    if config.stash[RANKS].size > 1:
        others = [item for item in items if not item.get_closest_marker("mpi")]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item.get_closest_marker("mpi")]


def pytest_collection_finish(session: pytest.Session) -> None:
    ranks = session.config.stash[RANKS]
    if ranks.size > 1:
        found = ranks.gather(([item.nodeid for item in session.items], session.testsfailed))
        different = [rank for rank, each in enumerate(found) if each != found[0]]
        if different:
            says = f"ranks {different} collected other tests or errors than rank 0: {found}"
            pytest.exit(says, returncode=3)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    ranks = item.config.stash[RANKS]
    ranks.test = item.nodeid
    own = item.get_closest_marker("patience")
    timer = ranks.watchdog(own.args[0] if own else PATIENCE)
    timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """All ranks report the worst outcome among them: failed, else skipped, else passed."""
    report: pytest.TestReport = yield
    ranks = item.config.stash[RANKS]
    if ranks.size > 1:
        _merge(report, ranks.rank, ranks.gather(_summary(report), report.longreprtext))
    return report


def _summary(report: pytest.TestReport) -> tuple[str, str, str]:
    """Outcome, where and why in one line, and everything there is to read about it."""
    crash = getattr(report.longrepr, "reprcrash", report.longrepr)
    sections = [f"{title}\n{text}" for title, text in report.sections] if report.failed else []
    return report.outcome, str(crash), "\n".join([report.longreprtext, *sections])


def _merge(report: pytest.TestReport, me: int, everyone: list[tuple[str, str, str]]) -> None:
    for outcome in ("failed", "skipped"):
        where = [rank for rank, (its, _, _) in enumerate(everyone) if its == outcome]
        if where:
            break
    else:
        return
    if report.outcome != outcome:
        path, line, _ = report.location
        says = f"{outcome} on rank {', '.join(map(str, where))} of {len(everyone)}"
        report.outcome = outcome
        report.longrepr = says if outcome == "failed" else (path, line, says)
    if outcome == "failed":
        shown = {everyone[me][1]}
        for rank in where:
            _, crash, text = everyone[rank]
            if crash not in shown:
                shown.add(crash)
                report.sections.append((f"rank {rank}", text))


def pytest_internalerror(excrepr: object) -> None:
    """An error of pytest itself on one rank would leave the others waiting."""
    os.write(2, f"{excrepr}\n".encode())
    if "mpi4py.MPI" in sys.modules and sys.modules["mpi4py.MPI"].COMM_WORLD.size > 1:
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(3)


@pytest.fixture
def comm(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A communicator of all ranks for this test alone."""
    duplicate = request.config.stash[RANKS].comm.Dup()
    yield duplicate
    assert not duplicate.Iprobe(), "a message came that nobody has received"
    duplicate.Free()


@pytest.fixture
def alone(comm: Any) -> None:
    """What tests before left in flight is set aside, for it may never be complete, or just now."""
    from hpckit.halo import adrift
    from hpckit.machine import lifetime

    gc.collect()
    comm.Barrier()
    for unfinished in (adrift.adrift, lifetime._left, lifetime._leaving):
        for _ in range(len(unfinished) // lifetime._LOOKS + 1):
            adrift.land()
            lifetime._free()
        SET_ASIDE.extend(unfinished)
        unfinished.clear()


@pytest.fixture
def alarm(comm: Any) -> Iterator[Any]:
    """An alarm on all ranks, which the test leaves together."""
    from hpckit.comm.alarm import Alarm

    made = Alarm(comm)
    yield made
    made.close()


@pytest.fixture
def shared_path(comm: Any) -> Iterator[Path]:
    """An empty folder, the same on all ranks."""
    path = comm.bcast(tempfile.mkdtemp(prefix="hpckit-test-") if comm.rank == 0 else None)
    yield Path(path)
    if comm.rank == 0:  # all ranks have met after the test
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def petsc() -> Any:
    """The module `petsc4py.PETSc`; without it the test is skipped, and says how to get it."""
    from hpckit import linear
    from hpckit.errors import ConfigError

    try:
        return linear.petsc()
    except ConfigError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def cuda_stub(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment by which processes find a stub of NVIDIA's driver, which is made for it."""
    import stub_cuda  # in tests/unit/comm

    return stub_cuda.build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def mpirun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`mpirun(n, *arguments, cwd=None, timeout=550, **environment)`: python on n ranks of its own.

    For tests that are not MPI tests themselves. n = None does without a launcher; output is text,
    `stderr` in `stdout`.
    """
    beside = Path(sys.executable).with_name("mpirun")
    clean = {k: value for k, value in os.environ.items() if not k.startswith(LAUNCHER_STATE)}
    clean["PYTHONUNBUFFERED"] = ""  # else `print` writes in pieces, which those of ranks mix with
    clean["OMPI_ALLOW_RUN_AS_ROOT"] = "1"
    clean["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    clean["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    clean["OMPI_MCA_rmaps_base_oversubscribe"] = "1"
    # ucx prints errors where there is no such network; programs of ours leave it out as well.
    clean["OMPI_MCA_osc"] = "^ucx"
    root = str(Path(__file__).parents[1])
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, [root, clean.get("PYTHONPATH")]))

    def run(
        n: int | None,
        *arguments: object,
        cwd: Path | None = None,
        timeout: float = 550,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        launcher = [] if n is None else [str(beside if beside.exists() else "mpirun"), "-n", str(n)]
        with subprocess.Popen(
            [*launcher, sys.executable, *map(str, arguments)],
            cwd=cwd,
            env=clean | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as job:
            try:
                output, _ = job.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                job.terminate()  # the launcher ends its ranks; SIGKILL would leave them behind
                output, _ = job.communicate()
                pytest.fail(f"no end after {timeout:g} s: {' '.join(job.args)}\n{output}")
        return subprocess.CompletedProcess(job.args, job.returncode, output)

    return run
