"""Moves on a device, by the twin of its kernel: byte for byte what MPI and NumPy do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from datatypes import Made, Objects, recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI

from hpckit import native
from hpckit.comm.device_moves import DeviceMoves
from hpckit.comm.pack import Move, dense_strides
from hpckit.comm.strided import NotStrided, StridedBlock, from_datatype


class Plain:
    """A device whose memory is the host's, and which does at once what is enqueued."""

    launches = 0

    def allocate(self, nbytes):
        host = np.zeros(nbytes + 256, np.uint8)
        host = host[-native.address(host) % 256 :][:nbytes]
        return SimpleNamespace(address=native.address(host), nbytes=nbytes, host=host)

    pinned = allocate

    def copy(self, target, source, nbytes, stream):
        MPI.buffer.fromaddress(target, nbytes)[:] = MPI.buffer.fromaddress(source, nbytes)

    def prepare(self, kernel, blocks, arguments, stream):
        function = getattr(native.load(kernel.module), kernel.name)

        def launch():
            self.launches += 1
            function(blocks, *arguments)

        return launch


def run(*moves: Move) -> None:
    DeviceMoves(Plain(), moves, 0).run()


def moves_of(block: StridedBlock, place: int, packed: int) -> tuple[Move, Move]:
    """To pack it, and to unpack it."""
    strided = place + block.start, block.strides
    dense = packed, dense_strides(block.counts, block.row)
    return (
        Move(block.counts, block.row, *strided, *dense),
        Move(block.counts, block.row, *dense, *strided),
    )


@settings(max_examples=300)
@given(recipe=recipes(), count=st.integers(1, 3))
def test_any_datatype_as_mpi_packs_it(recipe, count):
    with Made(recipe) as datatype:
        if datatype.Get_size():
            try:
                block = from_datatype(datatype).repeat(count)
            except NotStrided:
                return
            check_against_mpi(datatype, count, block)


def check_against_mpi(datatype: MPI.Datatype, count: int, block: StridedBlock) -> None:
    random = np.random.default_rng(7)
    with Objects(datatype, count) as objects:
        objects.memory[:] = random.integers(0, 255, objects.memory.size)
        packed = np.zeros(objects.nbytes, np.uint8)
        pack, unpack = moves_of(
            block, native.address(objects.memory) - objects.low, native.address(packed)
        )
        run(pack)
        np.testing.assert_array_equal(packed, objects.pack())
        # Else the last writer is not defined.
        if len(np.unique(visited := objects.bytes_visited())) == visited.size:
            objects.memory[:] = 0
            objects.unpack(packed)
            expected = objects.memory.copy()
            objects.memory[:] = 0
            run(unpack)
            np.testing.assert_array_equal(objects.memory, expected)
