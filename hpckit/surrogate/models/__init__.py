"""Networks by torch: functions of `hpckit.surrogate.engine.Shapes`, a file each.

Their inputs are flat, (B, shapes.inputs): first the scalars, then the fields of the past. `split`
takes them apart.
"""
