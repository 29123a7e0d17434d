"""What a run of `hpckit.apps.doctor` is told."""

from __future__ import annotations

from typing import Annotated

import msgspec

from hpckit.keys import note


class Config(msgspec.Struct):
    """What matters for parallel programs here: prints it, measures a little, says what is off."""

    copy: Annotated[int, note("size of the arrays that are copied, MiB", ge=1)] = 32
    threads: Annotated[int, note("threads per rank that you mean to use", ge=1)] = 1
    compile: Annotated[bool, note("compile all kernels now, without MPI, and nothing else")] = False
