"""The one way to run a program: `run(Config, program="hpckit.apps.halo")`.

Rank 0 reads the command line and the case file, all ranks get the same configuration or fail
together. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 75 stopped by a signal or for time,
with a checkpoint where there was anything to save: run it again to go on. 130 is the same after
Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import traceback
from array import array
from collections.abc import Callable, Iterator, Sequence
from logging import DEBUG
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import msgspec

import hpckit
from hpckit import log, trace
from hpckit.errors import (
    ConfigError,
    HpckitError,
    agree,
    all_come,
    cause,
    no_mpi,
    ranges,
    together,
    writing,
)
from hpckit.files import replacing
from hpckit.machine.store import mpi_library
from hpckit.program import cases, shm, stop
from hpckit.program.options import Options, help_text, parse, to_toml
from hpckit.program.stop import StopSignal

if TYPE_CHECKING:
    from mpi4py import MPI

C = TypeVar("C", bound=msgspec.Struct)
PATIENCE = (
    5.0  # seconds that a failing rank waits for the others to fail too, before it ends the job
)


def run(
    config_type: type[C],
    main: Callable[[MPI.Intracomm, C], dict[str, Any]] | None = None,
    *,
    program: str,
    dry_run: Callable[[C, int], str] | None = None,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Run `main(comm, config)` on all ranks and exit.

    main : returns the results, by name with unit; rank 0's are printed. Spans that it records are
        printed as a table. By default that of the module `job` of the program, which may start MPI
        as it is imported: that is done only where the program runs.
    dry_run : text for `--dry-run`, from the configuration and a number of ranks; MPI is not started
        for it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help", "--version", "--cases", "--dry-run"} & set(words):
        stop.release()
        sys.exit(_explain(config_type, dry_run, program, words))
    code = _compute(config_type, main, program, words)
    stop.leave()
    sys.exit(code)


def prepare(comm: MPI.Intracomm, config: msgspec.Struct, folder: Path, resume: bool) -> None:
    """Make the folder for results and save the configuration there (collective).

    A run that starts over sets the checkpoints of the one before aside, in `checkpoint.old`. Raises
    `ConfigError` on all ranks where nothing can be written.
    """
    from hpckit.io.checkpoint_folder import set_aside

    with together(comm):
        if comm.rank == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not resume:
                    set_aside(folder / "checkpoint")
            except OSError as error:
                raise ConfigError(
                    f"cannot write results to {folder}: {error}; choose another --output"
                ) from None
    save_config(comm, config, folder / "config.toml")


def save_config(comm: MPI.Intracomm, config: msgspec.Struct, path: str | os.PathLike[str]) -> None:
    """Write the configuration that runs as a case file that runs it again (collective, atomic).

    Raises `HpckitError` on all ranks where the file cannot be written.
    """
    text = f"# hpckit {version()}, {comm.size} ranks\n{to_toml(config)}"
    with together(comm):
        if comm.rank == 0:
            with writing(path), replacing(path) as draft:
                draft.write_text(text, encoding="utf-8")


def say(comm: MPI.Intracomm, *lines: object) -> None:
    """Print on rank 0."""
    if comm.rank == 0:
        print(*lines, sep="\n", flush=True)


@contextlib.contextmanager
def patiently(comm: MPI.Intracomm) -> Iterator[None]:
    """`errors.together` for what takes rank 0 long, such as pictures: the others sleep meanwhile
    (collective).
    """
    from hpckit.errors import meet

    with together(comm):
        try:
            yield
        finally:
            meet(comm)


def version() -> str:
    """The package's version, with the commit where it runs from a checkout."""
    root, number = Path(__file__).parents[2], hpckit.__version__
    if not (root / ".git").exists():
        return number
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--exclude=*"]
    with contextlib.suppress(OSError):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return f"{number} ({done.stdout.strip()})"
    return number


def launched_ranks() -> int:
    """Ranks that the launcher says it started, known before MPI starts; 0 without a launcher."""
    return _launched("SIZE")


def _launched(what: str) -> int:
    names = (f"PMI_{what}", f"PMIX_{what}", f"OMPI_COMM_WORLD_{what}")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def _explain(
    config_type: type[C], dry_run: Callable[[C, int], str] | None, program: str, words: list[str]
) -> int:
    """What needs no MPI, and does not start it: the launcher's environment must tell who prints."""
    try:
        if _launched("RANK") <= 0:
            print(_explanation(config_type, dry_run, program, words), flush=True)
    except HpckitError as error:
        print(f"{program}: {_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `--help | head`
        sys.stdout = None  # Python shall not try to flush it again
    return 0


def _explanation(
    config_type: type[C], dry_run: Callable[[C, int], str] | None, program: str, words: list[str]
) -> str:
    if {"-h", "--help"} & set(words):
        return help_text(config_type, program)
    if "--version" in words:
        return f"{program}, hpckit {version()}"
    options, config = parse(config_type, words, cases.folder(program))
    if options.cases:
        return cases.listing(cases.folder(program))
    if dry_run is None:
        raise ConfigError("this program has no --dry-run")
    return dry_run(config, options.ranks or launched_ranks() or 1)


def _compute(
    config_type: type[C],
    main: Callable[..., dict[str, Any]] | None,
    program: str,
    words: list[str],
) -> int:
    shm.warn(program, launched_ranks())
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if not (ours := no_mpi(error)):
            raise
        print(
            f"{program}: {ours}", file=sys.stderr
        )  # every process says so: without MPI there are no ranks
        return ours.exit_code
    comm = MPI.COMM_WORLD
    apart = comm.Dup()  # where failing ranks meet: nothing else is ever sent there
    stop.listen(apart, program)
    stdout = sys.stdout
    try:
        options, config = _parse_together(comm, config_type, program, words)
        StopSignal(comm).check()
        with contextlib.redirect_stdout(sys.stderr if options.json else stdout):
            log.configure(comm)
            say(comm, _banner(comm, program, config))
            trace.enable(comm, events=options.trace is not None)
            results = (main or _job(program))(comm, config)
            say(comm, trace.table(comm), *_readable(results))
        if options.json and comm.rank == 0:
            print(_json(comm, program, config, results), file=stdout, flush=True)
        if options.trace:
            trace.save(comm, options.trace)
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        return _fail(apart, program, error)
    return 0


def _job(program: str) -> Callable[..., dict[str, Any]]:
    return importlib.import_module(f"{program}.job").main


def _parse_together(
    comm: MPI.Intracomm, config_type: type[C], program: str, words: list[str]
) -> tuple[Options, C]:
    """Rank 0 parses; all ranks get the result, or its error (collective)."""
    message, failure = b"", None
    if comm.rank == 0:
        try:
            message = msgspec.msgpack.encode(
                (None, *parse(config_type, words, cases.folder(program)))
            )
        except Exception as error:
            message, failure = msgspec.msgpack.encode((_line(error), None, None)), error
    length = array("q", [len(message)])
    comm.Bcast(length)
    buffer = bytearray(message) if comm.rank == 0 else bytearray(length[0])
    comm.Bcast(buffer)
    wrong, options, config = msgspec.msgpack.decode(
        buffer, type=tuple[str | None, Options | None, config_type | None]
    )
    if options is None or config is None:
        raise failure or ConfigError(wrong)
    return options, config


def _fail(apart: MPI.Intracomm, program: str, error: BaseException) -> int:
    """The exit code when all ranks failed; when the others go on, end the job at once."""
    with contextlib.suppress(OSError):  # it may be what failed
        sys.stdout.flush()
    bug = not isinstance(
        error, (HpckitError, OSError, MemoryError)
    )  # those are of this machine, and say what is wrong
    trace = (
        "".join(traceback.format_exception(error))
        if bug or log.get_logger(program).isEnabledFor(DEBUG)
        else ""
    )
    if not all_come(apart, PATIENCE):
        where = f"{program}: rank {apart.rank} of {apart.size} failed:"
        sys.stderr.write(f"{where}\n{trace}" if trace else f"{where} {_line(error)}\n")
        sys.stderr.flush()
        apart.Abort(stop.exit_code(error))
    try:
        agree(apart, error)
    except HpckitError as ours:
        if apart.rank == 0:
            sys.stderr.write(f"{trace}{program}: {_line(ours)}\n")
        return stop.exit_code(ours)
    raise AssertionError("unreachable: agree raises")


def _line(error: BaseException) -> str:
    """An error as one line of UTF-8, whatever names and values are in it."""
    return " ".join(cause(error).split("\n")).encode(errors="backslashreplace").decode()


def _banner(comm: MPI.Intracomm, program: str, config: msgspec.Struct) -> str:
    """Program, version, MPI, and where the ranks are (collective)."""
    threads = getattr(config, "threads", 1)
    ranks = f"{comm.size} rank{'s' * (comm.size > 1)} x {threads} thread{'s' * (threads > 1)}"
    return (
        f"{program}, hpckit {version() if comm.rank == 0 else ''}\n{mpi_library()}, {ranks} on "
        f"{_hosts(comm)}"
    )


def hosts(comm: MPI.Intracomm) -> dict[str, list[int]]:
    """Ranks by host name (collective)."""
    from mpi4py import MPI

    found: dict[str, list[int]] = {}
    for rank, name in enumerate(comm.allgather(MPI.Get_processor_name())):
        found.setdefault(name, []).append(rank)
    return found


def _hosts(comm: MPI.Intracomm) -> str:
    found = hosts(comm)
    if len(found) == 1:
        return next(iter(found))
    each = [f"{name} (ranks {ranges(ranks)})" for name, ranks in found.items()]
    return f"{len(found)} hosts: {', '.join(each[:4])}{', ...' if len(each) > 4 else ''}"


def _readable(results: dict[str, Any]) -> list[str]:
    width = max(map(len, results), default=0)
    values = {
        name: f"{value:.6g}" if isinstance(value, float) else value
        for name, value in results.items()
    }
    return [f"{name:<{width}}  {value}" for name, value in values.items()]


def _json(
    comm: MPI.Intracomm, program: str, config: msgspec.Struct, results: dict[str, Any]
) -> str:
    run = {"program": program, "version": version(), "mpi": mpi_library(), "ranks": comm.size}
    content = {**run, "config": config, "results": results}
    return msgspec.json.encode(content, enc_hook=lambda array: array.tolist()).decode()
