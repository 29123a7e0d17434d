"""Kernels of devices: written once in Python, compiled for GPUs, for the stand-in and for tests.

A *module of device kernels*, `device_kernels.py` of some room, holds for each kernel the *factory*
of its thread and its *twin*, which the stand-in runs. A kernel `y += a * x`, say::

    from hpckit.native import export
    from hpckit.ptx.on_cpu import launch, on_cpu

    def axpy_thread(on):
        def thread(block, lane, y, x, n, a):
            i = block * on.THREADS + lane
            if i < n:
                on.store_f8(y + 8 * i, on.load_f8(y + 8 * i) + a * on.load_f8(x + 8 * i))

        return thread

    _axpy = on_cpu(axpy_thread)

    @export("void(i8, i8, i8, i8, f8)")
    def axpy(blocks, y, x, n, a):
        launch(_axpy, blocks, y, x, n, a)

The factory is given a *target*, and its thread uses nothing else that depends on one:
`hpckit.ptx.on_cuda` (PTX for NVIDIA's GPUs), `on_cpu` (the twin) and `on_simulator` (plain Python,
for Numba's simulator). A target has

* `THREADS` of a block, `lane` numbers them; a block's threads know nothing of one another;
* `load_T(address)` and `store_T(address, value)` of f8, f4, i8, i4, i2, i1, u8, u4, u2, u1, aligned
  to their size, and `load_pair`, `store_pair` of 16 bytes, whose value is a pair of u8;
* `function`, a decorator of functions of the kernel that its thread calls;
* conversions `i8`, `i4`, `u8`, `u4`, `f8`, `f4`; `sqrt`; `divide`, see `hpckit.ptx.words`.

Types are Numba's: integers without a type are int64, int64 with uint64 gives float64, float32 with
float64 gives float64; there is no `min` and no `max`. Sums and products are rounded each by itself,
as IEEE 754 says: PTX is made without fused multiply-add, so that a GPU, a CPU and the stand-in give
the same bits.

The twin's name and signature, less its first argument, are the kernel's: a device launches it by
`device.prepare(Kernel("hpckit.comm.device_kernels", "axpy"), blocks, [y, x, n, a], stream)`.

`make ptx` compiles them all to `hpckit/ptx/files`, where `text` finds them: whoever runs them needs
no compiler and no Numba. One text serves GPUs since Volta (2017) and drivers since CUDA 12.0, as
newer ones take older PTX.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hpckit.errors import HpckitError

OLDEST = 12000  # of the drivers that take our PTX: CUDA 12.0, whose compiler made it


@cache
def text(module: str, driver: int) -> bytes:
    """The PTX of a module of device kernels.

    driver : the newest CUDA that the GPU's driver supports, as `cuDriverGetVersion` says it.

    Raises HpckitError where that is too old. ::

        text("hpckit.comm.device_kernels", 13000)
    """
    if driver < OLDEST:
        raise HpckitError(
            f"the driver of the GPU supports CUDA {_release(driver)}, hpckit's kernels need "
            f"{_release(OLDEST)} or newer: update the driver"
        )
    return file(module).read_bytes()


def file(module: str) -> Path:
    """Where its PTX is."""
    return Path(__file__).parent / "files" / f"{module}.ptx"


def sources() -> list[str]:
    """All modules of device kernels."""
    root = Path(__file__).parents[2]
    found = root.glob("hpckit/**/device_kernels.py")
    return sorted(".".join(path.relative_to(root).with_suffix("").parts) for path in found)


def _release(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
