"""Kernels of structure from motion: sources for numba, compiled by `hpckit.native`."""
