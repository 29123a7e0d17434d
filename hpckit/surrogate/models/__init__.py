"""Networks by torch: functions of `hpckit.surrogate.engine.Shapes`, a file each.

They take and give flat arrays: (B, inputs), first the scalars, then the fields of the past, and
(B, outputs). `grids` makes channels on a grid of them. `fc.py` is the shortest, to begin with.
"""
