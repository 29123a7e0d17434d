"""NVIDIA's driver, as `hpckit.comm.cuda` calls it: loaded when first used, every answer checked.

The calls are those of the package `cuda.bindings` (extra `gpu`). It finds `libcuda.so.1`, which
comes with the driver, and of it only the functions that are called: versions 12 and 13 of the
package work with any driver from CUDA 12.0 on.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from hpckit.errors import ConfigError, HpckitError
from hpckit.units import amount

INSTALL = 'pip install "hpckit[gpu]"'
_ADVICE = {
    "CUDA_ERROR_NOT_INITIALIZED": "a process that was forked after its parent used the GPU cannot"
    " use it: start it anew (multiprocessing's spawn)",
    "CUDA_ERROR_NO_DEVICE": "no GPU is visible: look at nvidia-smi and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process has the GPU for itself: ask for one of your"
    " own, for its compute mode DEFAULT, or for MPS",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "the driver is too old for hpckit's kernels: CUDA 12.0"
    " (driver 525) or newer is needed",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the GPU is too old for hpckit's kernels",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "a kernel that ran before touched memory that is not its own, and"
    " this process cannot use the GPU any more: compute-sanitizer finds it",
    "CUDA_ERROR_LAUNCH_FAILED": "a kernel that ran before died, and this process cannot use the GPU"
    " any more: compute-sanitizer finds it",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "libcuda.so.1 is not that of the running driver: look at"
    " LD_LIBRARY_PATH, or at what the container brings",
}


class Properties(NamedTuple):
    """What a GPU is, learned without using it."""

    number: int
    title: str
    uuid: str
    nbytes: int
    """of its memory"""
    capability: tuple[int, int]
    stream_operations: bool
    """whether streams can write and wait for values in memory"""

    def __str__(self) -> str:
        return (
            f"{self.number}: {self.title} ({self.uuid}), {amount(self.nbytes)}, compute capability "
            f"{self.capability[0]}.{self.capability[1]}, "
            f"{'with' if self.stream_operations else 'without'} stream memory operations"
        )


@functools.cache
def driver() -> Any:
    """The module `cuda.bindings.driver`, ready to use.

    Raises `ConfigError` where the package, the driver or a GPU is missing.
    """
    try:
        import cuda.bindings.driver as driver
    except ImportError:
        raise ConfigError(f"GPUs need the package cuda-bindings: {INSTALL}") from None
    try:
        checked("the driver does not start", driver.cuInit(0))
    except RuntimeError:  # its own, with the places where it looked
        raise ConfigError(
            "there is no NVIDIA driver here (libcuda.so.1): run on a machine with a GPU, in"
            " containers with --gpus all (docker) or --nv (apptainer)"
        ) from None
    except HpckitError as error:
        raise ConfigError(str(error)) from None
    return driver


def version() -> int:
    """The newest CUDA that the driver can run: 13000 is 13.0."""
    return checked("the driver has no version", driver().cuDriverGetVersion())


def release() -> str:
    """The same, as people write it: `CUDA 13.0`."""
    return f"CUDA {version() // 1000}.{version() % 1000 // 10}"


def properties(number: int) -> Properties:
    """Those of the GPU with this number in this process."""
    cuda = driver()
    attributes = cuda.CUdevice_attribute
    what = f"GPU {number} cannot be asked what it is"
    device = checked(what, cuda.cuDeviceGet(number))

    def attribute(name: str) -> int:
        which = getattr(attributes, f"CU_DEVICE_ATTRIBUTE_{name}")
        return checked(what, cuda.cuDeviceGetAttribute(which, device))

    return Properties(
        number,
        title=checked(what, cuda.cuDeviceGetName(256, device)).partition(b"\0")[0].decode(),
        uuid=_uuid(checked(what, _uuid_of(device)).bytes),
        nbytes=checked(what, cuda.cuDeviceTotalMem(device)),
        capability=(attribute("COMPUTE_CAPABILITY_MAJOR"), attribute("COMPUTE_CAPABILITY_MINOR")),
        stream_operations=bool(attribute("CAN_USE_64_BIT_STREAM_MEM_OPS")),
    )


class Context:
    """The primary context of a GPU, in which every call of the driver is made.

    It is that of the CUDA runtime, and so of CuPy, torch and Numba. It stays the thread's current
    one, unless another library works with another GPU there: that finds its own again.
    """

    def __init__(self, number: int) -> None:
        cuda = driver()
        device = checked(f"there is no GPU {number}", cuda.cuDeviceGet(number))
        what = f"GPU {number} cannot be used"
        self._context = checked(what, cuda.cuDevicePrimaryCtxRetain(device))
        self._handle = int(self._context)
        self._current, self._set = cuda.cuCtxGetCurrent, cuda.cuCtxSetCurrent
        self._process = os.getpid()

    def __call__(self, what: str, function: Callable[..., tuple], *arguments: Any) -> Any:
        """The value with which it answers; `HpckitError` with `what` where that is an error."""
        return checked(what, self.ask(function, *arguments))

    def ask(self, function: Callable[..., tuple], *arguments: Any) -> tuple:
        """The whole answer, its code first."""
        before = checked("the GPU cannot be used", self._current())
        if int(before) == self._handle:
            return function(*arguments)
        checked("the GPU cannot be used in this thread", self._set(self._context))
        try:
            return function(*arguments)
        finally:
            if int(before):
                self._set(before)

    def when_gone(self, owner: object, function: Callable[..., tuple], *arguments: Any) -> None:
        """Call it once `owner` is gone, whatever it answers.

        Giving back memory waits for all that the GPU is doing. It is not done at the end of the
        program, which gives back everything: an exchange may still be under way.
        """
        weakref.finalize(owner, self._release, function, *arguments).atexit = False

    def _release(self, function: Callable[..., tuple], *arguments: Any) -> None:
        if os.getpid() == self._process:  # a forked child's garbage is its parent's memory
            self.ask(function, *arguments)


def _uuid_of(device: Any) -> tuple[Any, ...]:
    """A slice of a GPU has its own; version 12 of the package knows the older question too."""
    cuda = driver()
    return getattr(cuda, "cuDeviceGetUuid_v2", cuda.cuDeviceGetUuid)(device)


def _uuid(raw: bytes) -> str:
    """As nvidia-smi prints it."""
    text = raw.hex()
    parts = text[:8], text[8:12], text[12:16], text[16:20], text[20:]
    return f"GPU-{'-'.join(parts)}"


def checked(what: str, answer: tuple[Any, ...]) -> Any:
    """The value with which a call of the driver answers.

    Raises `HpckitError` where that is an error: `what` cannot be done, the driver's name for it,
    and what helps.
    """
    if answer[0]:
        raise refusal(what, answer[0])
    return answer[1] if len(answer) > 1 else None


def refusal(what: str, code: Any) -> HpckitError:
    """The error that says so."""
    said = f"{what}: {code.name}"
    advice = _ADVICE.get(code.name)
    return HpckitError(f"{said}; {advice}" if advice else said)
