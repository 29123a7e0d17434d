"""Sums of gradients over trainers, begun in the backward pass while others are still computed.

Parameters are taken in reverse, the order in which a backward pass gives gradients, and divided
into buckets of about as many bytes. A bucket is one array that the ranks of a node share. A
gradient that is complete is copied there, and is a view of it from then on; when the last of a
bucket is there, its allreduce starts, always in the order of the buckets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from hpckit.collectives import Allreduce, empty
from hpckit.collectives.channel import Channel
from hpckit.errors import ConfigError, together
from hpckit.lossy import LayerWise, PowerSGD, compressed
from hpckit.lossy.compression import Compression

_NUMBERS = {  # dtypes of parameters, and of the numbers in their gradients
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.float32,
    torch.complex128: np.float64,
}
_BETWEEN_NODES = 1 << 20  # bytes of a bucket: some are under way while others are computed
_LAYERWISE = "layerwise:"
_LOOKS = 10  # gradients by which layers are judged
_AGAIN = 500  # steps after which they are judged again


def in_rank_order(comm: MPI.Intracomm) -> str:
    """An algorithm that gives the same bits in each run, however fast it is (collective)."""
    channel = Channel.of(comm)
    return "shared" if channel.shares_memory and channel.one_node else "twoshot"


def check_parameters(parameters: Sequence[torch.Tensor]) -> None:
    """`ConfigError` for parameters whose gradients MPI cannot add."""
    for parameter in parameters:
        if parameter.dtype not in _NUMBERS or parameter.device.type != "cpu":
            raise ConfigError(
                f"a parameter of {parameter.dtype} on {parameter.device}: several trainers take "
                "float32, float64 and complex ones on the CPU"
            )


class Gradients:
    """The sums of all gradients over all trainers (constructing is collective).

    parameters : whose `grad` is a view of a bucket after the backward pass
    bucket : bytes; None: everything at once on one node, where ranks move bytes themselves
    compress : as in `hpckit.surrogate.engine.Options`
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        parameters: Sequence[torch.Tensor],
        bucket: int | None,
        compress: str | None,
        deadline: float | None,
    ) -> None:
        one_node = Channel.of(comm).one_node
        with together(comm):
            check_parameters(parameters)
            size = bucket or (sys.maxsize if one_node else _BETWEEN_NODES)
            alone = (compress or "").startswith(("powersgd:", _LAYERWISE))  # they take matrices
            members = _divided([*reversed(parameters)], 1 if alone else size)
            how = _Compressions(compress)
        self._buckets = [_Bucket(comm, each, how.first, deadline) for each in members]
        self._how = how.bound(comm, self._buckets)
        for bucket in self._buckets:
            for index, parameter in enumerate(bucket.parameters):
                come = partial(self._come, bucket, index)
                parameter.register_post_accumulate_grad_hook(come)  # type: ignore[attr-defined]
        self._next = 0
        self._saved: Any = None

    def state(self) -> Any:
        """What the next sums depend on, beside gradients; for pickle."""
        memories = [[each.copy() for each in bucket.plan.memory()] for bucket in self._buckets]
        return [bucket.how for bucket in self._buckets], memories, self._how.state()

    def restore(self, state: Any) -> None:
        """The next sum goes on from there."""
        self._saved = state  # making plans is collective, and so is the next step

    def _go_on(self) -> None:
        hows, memories, of_choice = self._saved
        self._saved = None
        self._how.restore(of_choice)
        for bucket, how, memory in zip(self._buckets, hows, memories, strict=True):
            if how != bucket.how:
                bucket.sum_by(how)
            for own, saved in zip(bucket.plan.memory(), memory, strict=True):
                own[:] = saved

    def begin(self) -> None:
        """Before the backward pass."""
        if self._saved:
            self._go_on()
        for bucket in self._buckets:
            bucket.empty()
        self._next = 0

    def wait(self) -> None:
        """All gradients are sums over all trainers; those that did not come count as zeros."""
        rest = self._buckets[self._next :]
        for bucket in rest:
            bucket.fill()
        self._how.measure()
        for bucket in rest:
            bucket.plan.start()
        self._next = len(self._buckets)
        for bucket in self._buckets:
            bucket.plan.wait()
        self._how.choose()

    def _come(self, bucket: _Bucket, index: int, parameter: torch.Tensor) -> None:
        """A gradient is complete."""
        bucket.take(index)
        if self._how.measures:
            return
        for started in self._buckets[: self._next]:
            started.plan.poll()
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._buckets[self._next].plan.start()
            self._next += 1


class _Bucket:
    """Parameters whose gradients are summed together, in one array."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        parameters: list[torch.Tensor],
        how: Compression | None,
        deadline: float | None,
    ) -> None:
        self.parameters = parameters
        numbers = [_as_real(parameter) for parameter in parameters]
        size = sum(each.numel() for each in numbers)
        self.array = empty(comm, size, _NUMBERS[parameters[0].dtype])
        self.views = []
        at = 0
        for parameter, real in zip(parameters, numbers, strict=True):
            part = torch.from_numpy(self.array[at : at + real.numel()]).view(real.shape)
            at += real.numel()
            self.views.append(torch.view_as_complex(part) if parameter.is_complex() else part)
        self.matrix = self.array.reshape(len(parameters[0]), -1) if _is_matrix(parameters) else None
        self._comm = comm
        self._deadline = deadline
        self.sum_by(how)
        self.missing: set[int] = set()

    def sum_by(self, how: Compression | None) -> None:
        """By this compression, where it takes such an array; None: in full (collective)."""
        array = self.array if self.matrix is None else self.matrix
        self.how = how if how is not None and _takes(how, array) else None
        self.plan = Allreduce(
            self._comm,
            array,
            algorithm=self.how or in_rank_order(self._comm),
            deadline=self._deadline,
        )

    def empty(self) -> None:
        """No gradient has come."""
        self.missing = set(range(len(self.parameters)))
        for parameter in self.parameters:
            parameter.grad = None  # else autograd would add to what is there

    def take(self, index: int) -> None:
        """This gradient has come."""
        parameter, view = self.parameters[index], self.views[index]
        if parameter.grad is None or parameter.grad.is_sparse:
            raise ConfigError(
                "gradients that are sparse cannot be summed: use sparse=False in the embedding"
            )
        view.copy_(parameter.grad)
        parameter.grad = view
        self.missing.discard(index)

    def fill(self) -> None:
        """What has not come is 0."""
        for index in self.missing:
            self.views[index].zero_()
            self.parameters[index].grad = self.views[index]


def _takes(how: Compression, array: np.ndarray) -> bool:
    try:
        how.check(array, MPI.SUM, 1)
    except ConfigError:
        return False
    return True


def _is_matrix(parameters: list[torch.Tensor]) -> bool:
    return len(parameters) == 1 and parameters[0].dim() > 1 and not parameters[0].is_complex()


def _as_real(parameter: torch.Tensor) -> torch.Tensor:
    data = parameter.detach()
    return torch.view_as_real(data) if data.is_complex() else data


def _divided(parameters: list[torch.Tensor], size: int) -> list[list[torch.Tensor]]:
    """Neighbours of one dtype, until they have that many bytes."""
    buckets: list[list[torch.Tensor]] = []
    held = size
    for parameter in parameters:
        other = not buckets or _NUMBERS[buckets[-1][0].dtype] != _NUMBERS[parameter.dtype]
        if held >= size or other:
            buckets.append([])
            held = 0
        buckets[-1].append(parameter)
        held += parameter.numel() * parameter.element_size()
    return buckets


class _Compressions:
    """Which compression each bucket has: one for all, or what L-GreCo chooses now and then."""

    def __init__(self, name: str | None) -> None:
        self._layerwise: LayerWise | None = None
        self._steps = 0
        self._uniform = None
        self.first = None
        if name and name.startswith(_LAYERWISE):
            self._uniform = compressed("powersgd:" + name.removeprefix(_LAYERWISE))
        elif name:
            self.first = compressed(name)

    def bound(self, comm: MPI.Intracomm, buckets: list[_Bucket]) -> _Compressions:
        """Once the buckets are there (collective)."""
        self._buckets = [bucket for bucket in buckets if bucket.matrix is not None]
        layers = [bucket.matrix for bucket in self._buckets if bucket.matrix is not None]
        if isinstance(self._uniform, PowerSGD) and layers:
            rank = self._uniform.rank
            ranks = sorted({max(1, rank // 4), max(1, rank // 2), rank, 2 * rank, 4 * rank})
            candidates = [PowerSGD(each) for each in ranks]
            self._layerwise = LayerWise(comm, layers, candidates, self._uniform)
        return self

    def state(self) -> Any:
        """Steps until now, and what was measured since the last choice."""
        return self._steps, self._layerwise and self._layerwise.state()

    def restore(self, state: Any) -> None:
        """Go on from there."""
        self._steps, measured = state
        if self._layerwise:
            self._layerwise.restore(measured)

    @property
    def measures(self) -> bool:
        """Whether the gradients of this step are to be seen before they are summed."""
        return self._layerwise is not None and self._steps % _AGAIN < _LOOKS

    def measure(self) -> None:
        """Look at this trainer's gradients."""
        if self._layerwise is not None and self.measures:
            self._layerwise.measure()

    def choose(self) -> None:
        """After so many looks choose for all layers; a step is done (collective)."""
        if self._layerwise is not None and self._steps % _AGAIN == _LOOKS - 1:
            for bucket, how in zip(self._buckets, self._layerwise.choose(), strict=True):
                bucket.sum_by(None if how == "auto" else how)
        self._steps += 1
