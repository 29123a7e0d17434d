"""From one format to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpckit.errors import ConfigError, together

if TYPE_CHECKING:
    from hpckit.apps.sfm.job import Job


def run(job: Job) -> dict[str, Any]:
    """Read, and write to the target (collective)."""
    job.needs_input("the model to convert")
    with together(job.comm):
        if not job.config.target:
            raise ConfigError(
                "convert needs a target beside the input: a folder (COLMAP), or a file that ends "
                "in .txt (BAL), .out (Bundler), .ply or .vtkhdf"
            )
    found, _ = job.load()
    job.write(found)
    return job.written
