"""Two processes that give MPI addresses of a device, to see whether it takes them.

`mpirun -n 2 python -m hpckit.apps.doctor.gpu_probe cuda`; the doctor starts it. Each process prints
what it has found as JSON, a line before it risks its life and one after.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.apps.doctor.software import cuda_hint
from hpckit.comm.gpu_awareness import machine
from hpckit.errors import ConfigError, HpckitError
from hpckit.machine.store import mpi_library

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpckit.comm.device import Device, Memory

SIZES = (8, 4 << 20)  # bytes: MPI sends small and large messages in different ways


def main(comm: MPI.Intracomm, name: str) -> None:
    """Print what is known before, then whether the bytes came (collective, on two ranks)."""
    from hpckit.comm.places import open_device  # it imports MPI

    try:
        if comm.size != 2:
            raise ConfigError(f"the launcher started {comm.size} ranks in a job, not 2")
        device = open_device(comm, name, share=True)
        peer = _peer(comm, device)
    except HpckitError as error:
        _tell(error=str(error))
        return
    _tell(
        rank=comm.rank,
        device=f"{device.title} ({device.uuid})",
        machine=machine(device),
        mpi=f"{mpi_library()}, {cuda_hint()}",
        peer=peer,
    )
    comm.Barrier()
    sent = [_sent(comm, device, nbytes) for nbytes in SIZES]
    _tell(rank=comm.rank, aware=all(sent))


def _tell(**what: Any) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")  # at once: lines of ranks shall not mix
    sys.stdout.flush()


def _pattern(rank: int, nbytes: int) -> np.ndarray:
    return np.random.default_rng(rank).integers(0, 256, nbytes, np.uint8)


def _upload(device: Device, values: np.ndarray) -> Memory:
    host, memory = device.pinned(values.nbytes), device.allocate(values.nbytes)
    assert host.host is not None
    host.host[:] = values
    device.copy(memory.address, host.address, values.nbytes, device.default_stream)
    device.synchronize(device.default_stream)
    return memory


def _holds(device: Device, memory: Memory, values: np.ndarray) -> bool:
    host = device.pinned(values.nbytes)
    assert host.host is not None
    device.copy(host.address, memory.address, values.nbytes, device.default_stream)
    device.synchronize(device.default_stream)
    return np.array_equal(host.host, values)


def _peer(comm: MPI.Intracomm, device: Device) -> str:
    """What keeps the ranks from reading each other's device memory, "" if nothing (collective)."""
    mine, other, said = _upload(device, _pattern(comm.rank, 4096)), 1 - comm.rank, ""
    exported = comm.sendrecv(_exported(device, mine), other, source=other)
    try:
        if isinstance(exported, str):
            raise HpckitError(exported)
        if not _holds(device, device.open(exported), _pattern(other, 4096)):
            raise HpckitError("ranks read wrong bytes from each other's device memory")
        counter, stream = device.pinned(4), device.default_stream
        device.signals([("write", counter.address), ("wait", counter.address)], stream)([1, 1])
        device.synchronize(stream)
    except HpckitError as error:
        said = str(error)
    comm.Barrier()  # nobody's memory goes before the other has read it
    return said


def _exported(device: Device, memory: Memory) -> bytes | str:
    try:
        return device.export(memory)
    except HpckitError as error:
        return str(error)


def _sent(comm: MPI.Intracomm, device: Device, nbytes: int) -> bool:
    """Whether MPI carries this many bytes from device memory to device memory (collective)."""
    from mpi4py import MPI

    other = 1 - comm.rank
    ours, theirs = _pattern(comm.rank, nbytes), _pattern(other, nbytes)
    source, target = _upload(device, ours), _upload(device, np.zeros_like(theirs))
    comm.Sendrecv(
        MPI.buffer.fromaddress(source.address, nbytes),
        other,
        recvbuf=MPI.buffer.fromaddress(target.address, nbytes),
        source=other,
    )
    return _holds(device, target, theirs)


if __name__ == "__main__":
    from mpi4py import MPI

    main(MPI.COMM_WORLD, sys.argv[1])
