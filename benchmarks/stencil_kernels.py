"""STREAM's copy, compiled as the sweeps are: LLVM makes it memcpy, which may stream past caches."""

from hpckit.native import export


@export("void(f8*, f8*, i8)", "void(f4*, f4*, i8)")
def copy(target, source, n):
    for i in range(n):
        target[i] = source[i]
