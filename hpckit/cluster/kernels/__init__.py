"""Kernels of k-medoids: sources for numba, a module per subject, compiled by `hpckit.native`.

Distances are whole numbers of ticks, at most 2**24, in float32; every sum of them, times a weight,
is a whole number below 2**53 in float64. No sum is rounded, so the order of a loop, its vector
width and the number of ranks are free.

Symbols, for n objects o, k slots i with one medoid each, and m candidates j that this rank owns:

    d         distance of object o to candidate j
    near, dn  slot and distance of the nearest medoid of o; among equals the lowest slot
    seco, ds  the same for the second; 2**24 when there is one medoid only
    limit     what rows of candidates, which may still have to be rounded, are below wherever d < ds
    w         weight of object o
    removal   removal[i] = sum over near(o) = i of w (ds - dn): what losing medoid i costs

Putting candidate j in slot i changes the loss by

    sum over o of w (min(d, dn) - dn)  +  removal[i]
                                       +  sum over near(o) = i of w (min(max(d, dn), ds) - ds)

(Schubert & Rousseeuw, Information Systems 101, 2021): one sweep over o serves all k slots.
"""
