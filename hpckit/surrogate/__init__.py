"""Surrogates: networks that learn what a solver computes, while it computes it.

Under one `mpirun` some ranks solve, others train; no step of a simulation touches the disk. In the
order in which a step goes through the files:

    solver        what users write: parameters in, times and fields out, step after step
    roles         which ranks solve, in groups, and which train
    rotation      whose turn it is: lanes give their steps in an order that no rank's speed changes
    message       a step with its simulation, time and parameters, as it lies in a queue
    solving       what a group does: runs the solver, checks what it gives, sends it
    assignments   what trainers tell groups to solve next
    sources       where a trainer gets its messages

`rotation` is the best file to begin with.
"""
