"""Bundle adjustment: `bundle_adjust` in `adjust.py`, from which all the rest can be read."""
