"""`--dry-run` of `hpckit.apps.allreduce`: what the links' model says, and the memory; no MPI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError
from hpckit.program.offline import offline
from hpckit.program.report import PROCESS
from hpckit.units import amount, binary, period

if TYPE_CHECKING:
    from hpckit.apps.allreduce.config import Config
    from hpckit.machine.links import Links


def estimate(config: Config, ranks: int) -> str:
    """Predicted times of all algorithms on so many ranks, for people."""
    with offline():
        return _estimate(config, ranks)


def _estimate(config: Config, ranks: int) -> str:
    from hpckit.collectives.algorithms import predict

    try:
        links, whence = _links(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"cannot read the links in {config.output}/result.json: {error}; choose another "
            "--output"
        ) from None
    names = list(predict(links, config.sizes[0], ranks))
    lines = [
        f"{'ranks':<10}{ranks}",
        f"{'links':<10}{whence}",
        *(f"{'':<10}{line}" for line in str(links).split("\n")),
    ]
    largest = max(config.sizes)
    needs = [
        max(buffers(name, rank, ranks, largest) for rank in {0, 1, ranks - 1}) for name in names
    ]
    memory = (
        PROCESS + 4 * largest + max((need for need in needs if need <= config.buffers), default=0)
    )
    lines += [f"{'memory':<10}about {amount(memory)} per rank, {amount(memory * ranks)} in all", ""]
    width = max([10, *(len(name) + 2 for name in names)])
    lines.append(f"{'predicted':<10}" + "".join(f"{name:>{width}}" for name in names))
    for nbytes in config.sizes:
        times = predict(links, nbytes, ranks)
        lines.append(
            f"{binary(nbytes):<10}" + "".join(f"{period(times[name]):>{width}}" for name in names)
        )
    return "\n".join(lines)


def buffers(algorithm: str, rank: int, size: int, nbytes: int) -> int:
    """Bytes that a rank needs beside its array; 0 where that is not ours to know."""
    from hpckit.collectives.algorithms import BY_MESSAGES
    from hpckit.collectives.schedule import scratch_size
    from hpckit.comm.partition import starts

    if algorithm not in BY_MESSAGES:
        return 0
    return scratch_size(BY_MESSAGES[algorithm].schedule(rank, size, starts(nbytes, size)))


def to_json(links: Links) -> dict[str, Any]:
    """The links as numbers and lists."""
    return {"node_of": links.node_of} | links.to_json()


def _links(config: Config) -> tuple[Links, str]:
    """Those that the last run into this folder measured, else a usual cluster's; and which."""
    from hpckit.machine.links import Links

    path = Path(config.output) / "result.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))["links"]
        measured = Links.from_json(found, found["node_of"])
        if measured is None:
            raise ValueError("they are damaged")
        return measured, f"measured by the run in {config.output}"
    alpha, beta = np.full((2, 2), 2e-6), np.full((2, 2), 1e-10)
    usual = Links.of_tables((0, 1), alpha, beta, overhead=3e-7, crowd=1.0, gamma=1e-10)
    return usual, f"not measured in {config.output}: a usual cluster's, one rank per node"
