"""The tasks of `hpckit.apps.sfm`, a file for each: `run(job)` does it and gives results by name."""
