"""What a run of `hpckit.apps.doctor` is told."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hpckit.keys import note


class Config(msgspec.Struct):
    """What matters for parallel programs here: prints it, measures a little, says what is off."""

    copy: Annotated[int, note("size of the arrays that are copied, MiB", ge=1)] = 32
    threads: Annotated[int, note("threads per rank that you mean to use", ge=1)] = 1
    compile: Annotated[bool, note("compile all kernels now, without MPI, and nothing else")] = False
    gpu: Annotated[bool, note("try now whether MPI takes addresses of GPUs, and keep it")] = False
    device: Annotated[Literal["cuda", "stand-in"], note("kind of GPU, for --gpu")] = "cuda"
    launcher: Annotated[
        str, note("what starts two ranks for --gpu: srun -n 2; the mpirun beside Python by default")
    ] = ""
