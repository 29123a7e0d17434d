"""Online training of surrogates: what each part of it costs, on two ranks."""

from __future__ import annotations

from typing import Any

from benchmarks import (
    _surrogate_data_path,
    _surrogate_gradients,
    _surrogate_learning,
    _surrogate_operators,
    _surrogate_queues,
    _surrogate_steering,
    _surrogate_training,
)
from benchmarks._harness import Report, main

SECTIONS = (
    _surrogate_queues,
    _surrogate_training,
    _surrogate_data_path,
    _surrogate_gradients,
    _surrogate_learning,
    _surrogate_operators,
    _surrogate_steering,
)


def run(comm: Any, quick: bool) -> Report:
    report = Report("surrogate")
    for section in SECTIONS:
        section.run(comm, quick, report)
    return report


if __name__ == "__main__":
    main("surrogate", run, ranks=2)
