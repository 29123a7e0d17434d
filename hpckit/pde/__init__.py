"""Solvers on a grid: one file per equation, their sweeps in `kernels`."""
