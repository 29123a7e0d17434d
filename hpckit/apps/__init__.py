"""Programs: a case file in, numbers and pictures out."""

import hpckit.program  # noqa: F401  (before a program's own imports: it holds what ends a run)
