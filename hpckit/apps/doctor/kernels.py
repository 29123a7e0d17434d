"""`doctor --compile`: all kernels beforehand, where a job would else wait for them; without MPI."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

from hpckit import cache, link, native
from hpckit.apps.doctor.config import Config
from hpckit.errors import ConfigError
from hpckit.log import speaks
from hpckit.program import stop
from hpckit.program.options import parse
from hpckit.program.run import launched_ranks


def compile_all(ranks: int) -> int:
    """Compile what is missing, on all cores; the exit code: 1 where none can be kept.

    ranks : processes that do so at once; whatever one of them compiles, the others of its host wait
        for.
    """
    sources = native.sources()
    folder, fault = cache.home(), link.find().fault
    if fault and speaks():
        print(fault, file=sys.stderr)
    if folder is None or link.find().linker is None:
        return 1
    workers = min(len(sources), max(len(os.sched_getaffinity(0)) // max(ranks, 1), 1))
    with ProcessPoolExecutor(workers) as pool:
        seconds = list(pool.map(_compile, sources))
    if speaks():
        print(
            *(f"{source!s:<45} {_text(s)}" for source, s in zip(sources, seconds, strict=True)),
            f"kept in {folder}",
            sep="\n",
        )
    return int(not all(native.is_kept(s.module, **s.constants) for s in sources))


def _compile(source: native.Source) -> float:
    """Seconds that it took; 0 where it was there."""
    native.QUIET = threading.TIMEOUT_MAX  # the user knows
    begin = time.perf_counter()
    if native.is_kept(source.module, **source.constants):
        return 0.0
    native.load(source.module, **source.constants)
    return time.perf_counter() - begin


def _text(seconds: float) -> str:
    return f"compiled in {seconds:.1f} s" if seconds else "was there"


def compile_kernels(words: list[str]) -> int:
    """`--compile`: without MPI, which login nodes and container builds may not have."""
    stop.release()
    try:
        parse(Config, words)
    except ConfigError as error:
        print(f"hpckit.apps.doctor: {error}", file=sys.stderr)
        return error.exit_code
    return compile_all(launched_ranks())
