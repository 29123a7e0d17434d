"""Kernels of devices: written once in Python, for GPUs as PTX, for the stand-in as its twin."""
