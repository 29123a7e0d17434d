"""The tasks of `hpckit.apps.surrogate`, a file for each: `run(job)` does it, results by name."""
