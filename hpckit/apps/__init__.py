"""Programs: a case file in, numbers and pictures out."""

import hpckit.program  # first of all: it holds the signals that end a run

__all__ = ["hpckit"]
