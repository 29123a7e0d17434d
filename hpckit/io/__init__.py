"""Files: what is read (`input`), results that ParaView opens (`fields`, `results`), checkpoints.

`read_field`, `FieldFile`, `Results` and `Checkpoint` are what `hpckit` exports; see docs/io.md.
"""
