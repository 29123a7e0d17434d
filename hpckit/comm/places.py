"""Where arrays are, and which device a rank uses.

A *place* is `HOST` or a `Device`. A rank uses one device of a kind, and the same as long as it
lives: that which `open_device` gave it, else the one on which its own arrays were found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from hpckit import native
from hpckit.comm.device import HOST, Device, Host
from hpckit.comm.shadow import is_of_device, shadow
from hpckit.errors import ConfigError, HpckitError, check_comm, ranges, same, together
from hpckit.names import DEVICES, load

if TYPE_CHECKING:
    from mpi4py import MPI

_LOCAL_RANKS = (  # a rank's number on its node, as launchers tell it
    "MPI_LOCALRANKID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "PALS_LOCAL_RANKID",
    "PMI_LOCAL_RANK",
    "SLURM_LOCALID",
)
_LEGACY = 1  # CUDA's other name for its stream 0
_devices: dict[tuple[str, int], Device] = {}  # by kind and number: what was opened once, stays
_used: dict[str, Device] = {}  # by kind


def open_device(comm: MPI.Intracomm | None, name: str, share: bool = False) -> Device:
    """The device that this rank uses: on each node the ranks' numbers say which (collective).

    comm : None where MPI has not begun, for MPI libraries that want a rank to have its device
        before: the launcher says which. The call with a communicator, later, then checks it.
    name : "cuda", or "stand-in" for one on the CPU, which shows mistakes and not speed.
    share : ranks may use one device together, where a node has fewer of them than ranks.

    The same at every call. Raises on all ranks `ConfigError` where two ranks would use one device
    without `share`, and `HpckitError` where there is none. ::

        gpu = hpckit.device(MPI.COMM_WORLD, "stand-in")  # "cuda" where there are GPUs
        u = grid.zeros(device=gpu)
    """
    if comm is None:
        return _used.setdefault(name, _of_rank(name, _told_rank(None)))
    check_comm(comm)
    same(comm, "the device and whether it is shared", (name, share))
    from hpckit.machine.node_memory import node_ranks  # it starts MPI

    with node_ranks(comm) as node:
        with together(comm):
            found = _used.get(name) or _of_rank(name, _told_rank(node.rank))
            found.shared = found.shared or share
        check_alone(comm, node, found)
    return _used.setdefault(name, found)


def place(arrays: Sequence[Any]) -> Host | Device:
    """Where all of these arrays are: `HOST`, or the device in whose memory they lie.

    A rank that uses no device of that kind yet, uses this one from now on. Raises `ConfigError`
    where some are elsewhere than others, or on a device that this rank does not use.
    """
    there = [is_of_device(array) for array in arrays]
    if not any(there):
        return HOST
    if not all(there):
        raise ConfigError(
            f"array {there.index(False)} is in host memory and array {there.index(True)} on a "
            "device: put all of them in one place"
        )
    shadows = map(shadow, arrays)
    found = {_at(native.address(each)) for each in shadows if each.size} or {*_used.values()}
    if len(found) == 1:
        return found.pop()
    names = ", ".join(sorted(f"{each.name} {each.number}" for each in found)) or "none that is used"
    raise ConfigError(f"the arrays are on several devices ({names}): put all of them on one")


def common_place(comm: MPI.Intracomm, node: MPI.Intracomm, arrays: Sequence[Any]) -> Host | Device:
    """`place`, of the same kind on all ranks and nobody else's device (collective).

    node : the ranks of `comm` on this node
    """
    with together(comm):
        found = place(arrays)
    same(comm, "the place of the arrays", found.name)
    if found is not HOST:
        check_alone(comm, node, found)
    return found


def check_alone(comm: MPI.Intracomm, node: MPI.Intracomm, mine: Any) -> None:
    """`ConfigError` on all ranks where ranks use one device, unless shared (collective)."""
    users = node.allgather((comm.rank, mine.uuid, mine.shared))
    others = [(rank, shared) for rank, uuid, shared in users if uuid == mine.uuid]
    with together(comm):
        if len(others) > 1 and not all(shared for _, shared in others):
            raise ConfigError(
                f"ranks {ranges(rank for rank, _ in others)} would use one device, {mine.title} "
                f"({mine.uuid}): run one rank per device, or let them share it by "
                f'hpckit.device(comm, "{mine.name}", share=True), in a program by --share'
            )


def handle_of(stream: Any) -> int:
    """The number of a stream: an int, or a stream of CUDA's Python, CuPy, Numba or PyTorch.

    Raises `ConfigError` for anything else.
    """
    try:
        return int(_handle(stream)) or _LEGACY
    except (TypeError, ValueError):
        raise ConfigError(
            f"{stream!r} is no stream: pass its handle, an int, or a stream of cuda.core, CuPy, "
            "Numba or PyTorch"
        ) from None


def stream_of(array: Any, device: Device, stream: Any = None) -> int:
    """The one after whose work an array is ready: that given, else what the array says of itself.

    Arrays that name none are used on the device's default stream.
    """
    if stream is not None:
        return handle_of(stream)
    interface = getattr(array, "__cuda_array_interface__", {})
    return interface.get("stream") or device.default_stream


def common_stream(where: Host | Device, arrays: Sequence[Any], stream: Any = None) -> int:
    """`stream_of` all these arrays; 0 on the host, which has no streams.

    Raises `ConfigError` where they name several, and where `stream` is given for the host's arrays.
    """
    if not isinstance(where, Host):
        found = {stream_of(array, where, stream) for array in arrays} or {where.default_stream}
        if len(found) == 1:
            return found.pop()
        raise ConfigError(
            f"the arrays are used on streams {', '.join(map(str, sorted(found)))}: say by stream= "
            "on which one they are ready"
        )
    if stream is not None:
        raise ConfigError(f"stream={stream!r} is for arrays on a device, but these are NumPy's")
    return 0


def _handle(stream: Any) -> Any:
    if hasattr(stream, "__cuda_stream__"):
        return stream.__cuda_stream__()[1]
    for name in ("cuda_stream", "ptr", "handle"):
        if hasattr(stream, name):
            handle = getattr(stream, name)
            return getattr(handle, "value", handle) or 0  # of ctypes, which says None for 0
    return index(stream)


def _at(address: int) -> Device:
    """The device in whose memory an address is."""
    for name in DEVICES:
        number = _kind(name).number_at(address)
        if number is not None:
            return _adopt(name, number)
    raise ConfigError(f"an array says that it is on a device, but {address:#x} is on none")


def _adopt(name: str, number: int) -> Device:
    used = _used.setdefault(name, _opened(name, number))
    if used.number != number:
        raise ConfigError(
            f"an array is on device {number} of kind {name!r}, but this rank uses device "
            f"{used.number} ({used.uuid}): put it there"
        )
    return used


def _of_rank(name: str, local_rank: int) -> Device:
    count = _kind(name).count()
    if not count:
        raise HpckitError(f"this rank sees no device of kind {name!r}")
    return _opened(name, local_rank % count)


def _opened(name: str, number: int) -> Device:
    key = name, number
    if key not in _devices:
        _devices[key] = _kind(name)(number, shared=False)
    return _devices[key]


def _kind(name: str) -> Any:
    """The class of devices of this name."""
    if name not in DEVICES:
        raise ConfigError(f"device {name!r} must be one of {', '.join(map(repr, DEVICES))}")
    return load({name: DEVICES[name]})[name]


def _told_rank(otherwise: int | None) -> int:
    """This rank's number on its node, by the launcher where it tells."""
    told = (os.environ[name] for name in _LOCAL_RANKS if name in os.environ)
    number = next(told, otherwise)
    if number is None:
        raise ConfigError(
            "no launcher says which rank of its node this is (by "
            f"{_LOCAL_RANKS[0]}, say): choose the device by a communicator, once MPI has begun"
        )
    return int(number)


class _Forked:
    """What a device becomes in a forked child."""

    def __getattribute__(self, name: str) -> Any:
        raise HpckitError(
            "a device of the parent process cannot be used in a forked one: start processes by "
            'multiprocessing.get_context("spawn")'
        )


def _after_fork() -> None:
    """Neither the driver nor the parent's plans work in a child, and half of it would: so none may.

    The devices change their class, so that whoever uses one is told, and nobody else pays for it.
    """
    for each in _devices.values():
        each.__class__ = _Forked  # pyright: ignore[reportAttributeAccessIssue]


os.register_at_fork(after_in_child=_after_fork)

device = open_device  # as hpckit calls it, where no variable has this name
