"""NVIDIA's GPUs behind the seam of `hpckit.comm.device`.

Memory is plain (`cuMemAlloc`, never from a pool), since other ranks can open only that. Kernels are
the PTX of `hpckit.ptx`, which the driver compiles when the first kernel of a module is prepared.
"""

from __future__ import annotations

import ctypes
import operator
import weakref
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import count
from typing import Any, ClassVar

import numpy as np

from hpckit import ptx
from hpckit.comm import cuda_driver
from hpckit.comm.cuda_driver import Context, checked, refusal
from hpckit.comm.device import DeviceArrays, Kernel, Signal
from hpckit.errors import HpckitError
from hpckit.native import address
from hpckit.units import amount

THREADS = 256  # of a block, as the kernels of hpckit.ptx are written
MOST_BLOCKS = 2**31 - 1
_HANDLE = 64  # bytes of an IPC handle
_numbers = count()


class CudaMemory:
    """Memory that the device reaches; given back when this object is gone."""

    def __init__(self, address: int, nbytes: int, host: np.ndarray | None = None) -> None:
        self.address = address
        self.nbytes = nbytes
        self.host = host
        self.number = next(_numbers)  # no other memory of this process ever has it


class CudaEvent:
    """A place in a stream, see `hpckit.comm.device.Event`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._cuda = cuda = cuda_driver.driver()
        flags = cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING
        self.handle = context("an event cannot be made", cuda.cuEventCreate, flags)
        context.when_gone(self, cuda.cuEventDestroy, self.handle)

    def record(self, stream: int) -> None:
        what = "an event cannot be recorded"
        self._context(what, self._cuda.cuEventRecord, self.handle, stream)

    def done(self) -> bool:
        """Raises `HpckitError` where work before it failed."""
        code = self._context.ask(self._cuda.cuEventQuery, self.handle)[0]
        if code == self._cuda.CUresult.CUDA_ERROR_NOT_READY:
            return False
        if code:
            raise refusal("work on the GPU failed", code)
        return True

    def synchronize(self) -> None:
        self._context("work on the GPU failed", self._cuda.cuEventSynchronize, self.handle)


class Cuda(DeviceArrays):
    """The GPU with this number in this process, see `hpckit.comm.device.Device`."""

    name: ClassVar[str] = "cuda"
    default_stream = 1  # CU_STREAM_LEGACY, the default of all libraries that are not told otherwise

    def __init__(self, number: int, shared: bool = False) -> None:
        self.number = number
        self.shared = shared
        self.properties = cuda_driver.properties(number)
        self.title, self.uuid = self.properties.title, self.properties.uuid
        self.driver = cuda_driver.release()
        self._cuda = cuda_driver.driver()
        self._context = Context(number)
        self._opened: weakref.WeakValueDictionary[bytes, CudaMemory] = weakref.WeakValueDictionary()
        self._module = cache(self._load)

    @classmethod
    def count(cls) -> int:
        """GPUs that this process sees.

        Raises `ConfigError` where there is none, and says what is missing.
        """
        return checked("GPUs cannot be counted", cuda_driver.driver().cuDeviceGetCount())

    @classmethod
    def describe(cls) -> list[str]:
        """Lines about the driver and all GPUs that this process sees.

        Raises `ConfigError` as `count`.
        """
        found = map(cuda_driver.properties, range(cls.count()))
        return [f"driver for {cuda_driver.release()}", *map(str, found)]

    @classmethod
    def number_at(cls, address: int) -> int | None:
        """Of the GPU in whose memory this address is; None: of none."""
        cuda = cuda_driver.driver()
        kinds = cuda.CUpointer_attribute
        of = cuda.cuPointerGetAttribute
        kind = of(kinds.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address)[1]
        if kind != cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE:
            return None
        return of(kinds.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address)[1]

    def __repr__(self) -> str:
        return f"<{self.title}: {self.uuid}>"

    # -- memory

    def allocate(self, nbytes: int) -> CudaMemory:
        code, pointer = self._context.ask(self._cuda.cuMemAlloc, max(nbytes, 1))
        if code:
            raise self._no_room(nbytes, code)
        memory = CudaMemory(int(pointer), nbytes)
        self._context.when_gone(memory, self._cuda.cuMemFree, pointer)
        return memory

    def pinned(self, nbytes: int) -> CudaMemory:
        cuda = self._cuda
        what = f"{amount(nbytes)} of page-locked memory cannot be had"
        flags = cuda.CU_MEMHOSTALLOC_PORTABLE | cuda.CU_MEMHOSTALLOC_DEVICEMAP
        pointer = self._context(what, cuda.cuMemHostAlloc, max(nbytes, 1), flags)
        # Views of it may live longer than what we return: MPI's requests hold them.
        pages = (ctypes.c_uint8 * nbytes).from_address(pointer)
        self._context.when_gone(pages, cuda.cuMemFreeHost, pointer)
        return CudaMemory(self._mapped(pointer), nbytes, np.frombuffer(pages, np.uint8))

    def register(self, array: np.ndarray) -> CudaMemory:
        cuda, pointer = self._cuda, address(array)
        what = f"{amount(array.nbytes)} of memory cannot be locked in place"
        flags = cuda.CU_MEMHOSTREGISTER_PORTABLE | cuda.CU_MEMHOSTREGISTER_DEVICEMAP
        self._context(what, cuda.cuMemHostRegister, pointer, array.nbytes, flags)
        memory = CudaMemory(self._mapped(pointer), array.nbytes, array)
        self._context.when_gone(memory, cuda.cuMemHostUnregister, pointer)
        return memory

    def export(self, memory: CudaMemory) -> bytes:
        """The driver's handle, and what tells this piece of memory from all later ones."""
        what = "memory of the GPU cannot be shown to other ranks"
        handle = self._context(what, self._cuda.cuIpcGetMemHandle, memory.address)
        number = np.array([memory.number, memory.nbytes], "<i8").tobytes()
        return ctypes.string_at(handle.getPtr(), _HANDLE) + number

    def open(self, exported: bytes) -> CudaMemory:
        """The driver opens no piece twice: whoever asks again gets the same memory."""
        if (memory := self._opened.get(exported)) is None:
            memory = self._opened[exported] = self._open(exported)
        return memory

    def _open(self, exported: bytes) -> CudaMemory:
        cuda = self._cuda
        handle = cuda.CUipcMemHandle()
        ctypes.memmove(handle.getPtr(), exported, _HANDLE)
        flags = cuda.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
        what = (
            "memory of another rank's GPU cannot be opened (every rank must see all GPUs of the "
            "node, and containers need --ipc=host)"
        )
        pointer = self._context(what, cuda.cuIpcOpenMemHandle, handle, flags)
        memory = CudaMemory(int(pointer), int(np.frombuffer(exported, "<i8", offset=_HANDLE)[1]))
        self._context.when_gone(memory, cuda.cuIpcCloseMemHandle, pointer)
        return memory

    def holds(self, address: int) -> bool:
        return self.number_at(address) == self.number

    def _mapped(self, pointer: int) -> int:
        """The address by which the device reaches locked memory of the host."""
        what = "the GPU does not reach memory of the host"
        return int(self._context(what, self._cuda.cuMemHostGetDevicePointer, pointer, 0))

    def _no_room(self, nbytes: int, code: Any) -> HpckitError:
        """`cuMemAlloc` refused: how much there would have been."""
        error = refusal(f"{amount(nbytes)} of device memory cannot be had", code)
        free = self._context("its free memory is not known", self._cuda.cuMemGetInfo)
        return HpckitError(
            f"{error}: {amount(free)} of {amount(self.properties.nbytes)} are free on {self.title}"
            f" ({self.uuid}); use fewer or smaller arrays, or more GPUs"
        )

    # -- streams

    def stream(self) -> int:
        flags = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        return int(self._context("a stream cannot be made", self._cuda.cuStreamCreate, flags))

    def event(self) -> CudaEvent:
        return CudaEvent(self._context)

    def wait(self, stream: int, event: CudaEvent) -> None:
        what = "a stream cannot wait for an event"
        self._context(what, self._cuda.cuStreamWaitEvent, stream, event.handle, 0)

    def synchronize(self, stream: int) -> None:
        self._context("work on the GPU failed", self._cuda.cuStreamSynchronize, stream)

    def copy(self, target: int, source: int, nbytes: int, stream: int) -> None:
        if nbytes:
            what = "a copy cannot be made"
            self._context(what, self._cuda.cuMemcpyAsync, target, source, nbytes, stream)

    # -- kernels and signals

    def prepare(
        self, kernel: Kernel, blocks: int, arguments: Sequence[Any], stream: int
    ) -> Callable[[], object]:
        if not 1 <= blocks <= MOST_BLOCKS:
            raise HpckitError(
                f"kernel {kernel.name} cannot run in {blocks} blocks: 1 to {MOST_BLOCKS} can be"
            )
        values = [_argument(each) for each in arguments]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        launch = partial(
            self._context,
            f"kernel {kernel.name} cannot be launched",
            self._cuda.cuLaunchKernel,
            self._function(kernel),
            *(blocks, 1, 1),
            *(THREADS, 1, 1),
            0,  # bytes of shared memory
            self._cuda.CUstream(stream),
            ctypes.addressof(pointers),
            0,
        )
        return _Bound(launch, values, pointers)

    def signals(self, signals: Sequence[Signal], stream: int) -> Callable[[Sequence[int]], object]:
        operations, fields = [], []
        for kind, at in signals:
            operation, field = self._operation(kind, at)
            operations.append(operation)
            fields.append(field)
        enqueue = partial(
            self._context,
            "a stream cannot write or wait for signals",
            self._cuda.cuStreamBatchMemOp,
            self._cuda.CUstream(stream),
            len(operations),
            operations,
            0,
        )

        def give(values: Sequence[int]) -> None:
            for field, value in zip(fields, values, strict=True):
                field.value = value % 2**32
            if fields:
                enqueue()

        return give

    def _operation(self, kind: str, at: int) -> tuple[Any, Any]:
        """One operation, and the part of it that has the value.

        Its flags stay 0: a wait is for the counter to be at the value or beyond, counted in a
        circle, and a write comes after all that the stream wrote before, for the host and for other
        devices too.
        """
        operation = self._cuda.CUstreamBatchMemOpParams()
        field = operation.waitValue if kind == "wait" else operation.writeValue
        kinds = self._cuda.CUstreamBatchMemOpType
        field.operation = getattr(kinds, f"CU_STREAM_MEM_OP_{kind.upper()}_VALUE_32")
        field.address = self._cuda.CUdeviceptr(at)
        field.flags = 0
        return operation, field

    def _function(self, kernel: Kernel) -> Any:
        """It is loaded now, since loading may wait for all streams, and those for other ranks."""
        what = f"there is no kernel {kernel.name} in the PTX of {kernel.module}"
        module = self._module(kernel.module)
        return self._context(what, self._cuda.cuModuleGetFunction, module, kernel.name.encode())

    def _load(self, module: str) -> Any:
        text = ptx.text(module, cuda_driver.version()) + b"\0"
        what = f"the kernels of {module} cannot be loaded"
        return self._context(what, self._cuda.cuModuleLoadData, text)


class _Bound:
    """A launch, with the arguments in whose memory the driver reads them."""

    def __init__(self, launch: Callable[[], object], *arguments: object) -> None:
        self._launch = launch
        self._arguments = arguments

    def __call__(self) -> None:
        self._launch()


def _argument(value: Any) -> Any:
    if isinstance(value, float):
        return ctypes.c_double(value)
    if np.result_type(value) == np.float32:
        return ctypes.c_float(value)
    return ctypes.c_int64(operator.index(value))
