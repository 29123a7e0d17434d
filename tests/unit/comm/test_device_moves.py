"""Moves on a device, by the kernel's twin: byte for byte what MPI and NumPy do."""

from __future__ import annotations

import contextlib
import math
import random
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
from datatypes import recipes
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi4py import MPI
from strided_cases import Case, noise, strided_cases

import hpckit
from hpckit import native
from hpckit.comm import device_moves
from hpckit.comm.device_moves import DeviceMoves, multiplier, tables_of
from hpckit.comm.pack import Move, fit
from hpckit.comm.strided import NotStrided
from hpckit.comm.tables import PIECES

TYPES = 10_000
TOGETHER = 100  # so many in one launch


class Plain:
    """A device whose memory is the host's, and which does at once what is enqueued."""

    def __init__(self) -> None:
        self.launches = 0

    def allocate(self, nbytes):
        host = np.empty(nbytes, np.uint8)
        return SimpleNamespace(address=native.address(host), nbytes=nbytes, host=host)

    pinned = allocate

    def copy(self, target, source, nbytes, stream):
        MPI.buffer.fromaddress(target, nbytes)[:] = MPI.buffer.fromaddress(source, nbytes)

    def prepare(self, kernel, blocks, arguments, stream):
        assert blocks > 0
        function = getattr(native.load(kernel.module), kernel.name)

        def launch():
            self.launches += 1
            function(blocks, *arguments)

        return launch


def run(*moves: Move) -> Plain:
    device = Plain()
    DeviceMoves(device, moves, 0).run()
    return device


def check(cases: list[Case]) -> None:
    """All of them in one launch, each way."""
    packed = [np.zeros_like(case.packed) for case in cases]
    run(*(case.pack(out) for case, out in zip(cases, packed, strict=True)))
    for case, out in zip(cases, packed, strict=True):
        np.testing.assert_array_equal(out, case.packed)
    cases = [case for case in cases if case.is_defined]
    memories = [case.before.copy() for case in cases]
    run(*(case.unpack(memory) for case, memory in zip(cases, memories, strict=True)))
    for case, memory in zip(cases, memories, strict=True):
        np.testing.assert_array_equal(memory, case.after)


def test_ten_thousand_types_as_mpi_packs_them():
    cases, words, unpacked, negative = strided_cases(11), set(), 0, 0
    for _ in range(TYPES // TOGETHER):
        together = list(islice(cases, TOGETHER))
        check(together)
        unpacked += sum(case.is_defined for case in together)
        negative += sum(min(case.block.strides, default=0) < 0 for case in together)
        _, _, divisions = tables_of(fit(case.pack(case.packed.copy()) for case in together))
        words |= set(divisions["word"].tolist())
    assert words == {1, 2, 4, 8, 16}
    assert unpacked > TYPES / 2 and negative > TYPES / 10


@settings(max_examples=300)
@given(recipe=recipes(), count=st.integers(1, 3))
def test_types_of_all_combiners(recipe, count):
    with contextlib.suppress(NotStrided):
        check([Case(recipe, count)])


@pytest.mark.parametrize("word", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("words", [1, 2, 3, 4, 5, 7, 8, 61])
def test_rows_of_any_length(word, words):
    row, rows = word * words, 37
    source = noise(rows * (row + word)).reshape(rows, row + word)
    target = np.zeros((rows, row), np.uint8)
    run(Move((rows,), row, native.address(source), (row + word,), native.address(target), (row,)))
    np.testing.assert_array_equal(target, source[:, :row])


def test_more_pieces_than_a_block_copies():
    source = noise(3 * 8 * PIECES + 40).view("f8").reshape(1, -1)[:, ::-1]
    target = np.zeros_like(source)
    n, end = source.size, native.address(source)
    run(Move((n,), 8, end, (-8,), native.address(target), (8,)))
    np.testing.assert_array_equal(target, source)


def test_loops_that_the_kernel_has_not_are_unrolled():
    source = noise(2**6 * 3 * 8).view("f8").reshape(2, 2, 2, 2, 2, 2, 3)[..., 1]
    target = np.zeros(source.shape)
    source, target = source.transpose(5, 1, 3, 0, 2, 4), target.transpose(0, 3, 1, 4, 2, 5)
    ends = native.address(source), source.strides, native.address(target), target.strides
    device = run(Move(source.shape, 8, *ends))
    np.testing.assert_array_equal(target, source)
    assert device.launches == 1


def test_several_fields_in_one_launch():
    sources = [noise(n * 24).view("f8").reshape(n, 3) for n in (1, 5, 2000)]
    targets = [np.zeros(len(source)) for source in sources]
    moves = [
        Move((len(s),), 8, native.address(s) + 16, (24,), native.address(t), (8,))
        for s, t in zip(sources, targets, strict=True)
    ]
    planned = DeviceMoves(device := Plain(), moves, 0)
    planned.run()
    for source, target in zip(sources, targets, strict=True):
        np.testing.assert_array_equal(target, source[:, 2])
    assert (len(planned), device.launches) == (3, 1)


@pytest.mark.parametrize(
    "move", [Move((3, 0), 8, 0, (8, 8), 0, (8, 8)), Move((3,), 0, 0, (8,), 0, (8,))]
)
def test_where_there_is_nothing_nothing_is_launched(move):
    planned = DeviceMoves(device := Plain(), [move], 0)
    planned.run()
    assert (len(planned), device.launches) == (0, 0)


def test_words_are_as_wide_as_all_ends_allow():
    def word(source=0, target=0, row=64, strides=(128, 64)):
        _, _, divisions = tables_of([Move((5,), row, source, strides[:1], target, strides[1:])])
        return divisions["word"][0]

    assert word() == 16
    assert word(source=8) == word(target=24) == word(row=40) == word(strides=(72, 64)) == 8
    assert word(source=4) == word(strides=(-132, 64)) == 4
    assert word(row=6) == 2
    assert word(target=1) == 1


def test_divisions():
    draw = random.Random(5)
    largest = (1 << 31) - 1
    divisors = {1, 2, 3, 5, 7, largest, largest - 1, largest // 2, largest // 2 + 2, 641, 6700417}
    divisors |= {(1 << k) + d for k in range(2, 31) for d in (-1, 0, 1)}
    divisors |= {draw.randint(1, 1 << draw.randint(1, 30)) for _ in range(1000)}
    for d in divisors:
        factor, shift = multiplier(d)
        assert factor < 1 << 32 and shift < 32
        top = largest // d * d  # where a quotient that is too large shows first
        for n in {0, 1, d - 1, d, d + 1, top - 1, top, largest, draw.randint(0, largest)}:
            if 0 <= n <= largest:
                assert (2 * n * factor >> 32) >> shift == n // d


@pytest.mark.parametrize("most", [2, 7, 50])
def test_parts_copy_what_the_whole_does(monkeypatch, most):
    monkeypatch.setattr(device_moves, "MOST", most)
    source, target = noise(5 * 3 * 48).reshape(5, 3, 48), np.zeros((5, 3, 31), np.uint8)
    ends = native.address(source), (144, 48), native.address(target), (93, 31)
    planned = DeviceMoves(Plain(), [Move((5, 3), 31, *ends)], 0)
    planned.run()
    np.testing.assert_array_equal(target, source[..., :31])
    assert len(planned) >= 5 * 3 * 8 / most


@pytest.mark.parametrize(
    "move",
    [
        Move((3, 1 << 16, 1 << 16), 8, 0, (1 << 37, -(1 << 20), 16), 0, (1 << 35, 1 << 19, 8)),
        Move((5,), 1 << 36, 0, (1 << 37,), 0, (1 << 36,)),
        Move((), (1 << 36) + 48, 0, (), 0, ()),
        Move((), (1 << 34) + 6, 2, (), 4, ()),
    ],
)
def test_no_number_of_a_piece_has_more_than_31_bits(move):
    parts = list(device_moves._split(move))
    lasts = [device_moves._division(part)[2] for part in parts]
    assert len(parts) > 1 and max(lasts) + PIECES < 1 << 31
    nbytes = [math.prod(part.shape) * part.row for part in [move, *parts]]
    assert nbytes[0] == sum(nbytes[1:])


def test_on_a_device_out_of_the_hosts_reach(comm):
    device = hpckit.device(comm, "stand-in")
    there, pinned = device.allocate(12 * 8), device.pinned(12 * 8)
    pinned.host[:] = np.arange(12.0).view(np.uint8)
    device.copy(there.address, pinned.address, 96, device.default_stream)
    column = Move((3,), 8, there.address + 8, (32,), pinned.address, (8,))
    moves = DeviceMoves(device, [column], device.default_stream)
    moves.run()
    assert pinned.host.view("f8")[0] == 0
    device.synchronize(device.default_stream)
    np.testing.assert_array_equal(pinned.host.view("f8")[:4], [1, 5, 9, 3])
