"""Halo exchange against the definition: ghosts hold their cells' global numbers, or nothing."""

from __future__ import annotations

import gc
from itertools import product

import numpy as np
import pytest
from ghosts import RECORD, SHAPES, expected, numbered, own
from hypothesis import given, settings
from hypothesis import strategies as st

from hpckit.comm.grid import Grid
from hpckit.errors import ConfigError, HpckitError
from hpckit.halo import METHODS, Halo

ROUNDS = 8 * 5 * 5 + 1  # of a race at most: rounds, methods, turns; and the call that ends it


def check(grid: Grid, method: str, corners: bool, kinds, shared=False, rounds=2) -> None:
    """`kinds`: (dtype, stagger, order) of each field."""
    fields = [numbered(grid, *kind, shared=shared) for kind in kinds]
    halo = Halo(grid, fields=fields, corners=corners, method=method)
    for turn in range(rounds):
        if turn % 2:
            halo.exchange(*fields)
        else:
            halo.start(*fields)
            halo.wait()
    for field, (_, stagger, _) in zip(fields, kinds, strict=True):
        np.testing.assert_array_equal(field, expected(grid, field, stagger, corners))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_method_fills_every_ghost_and_nothing_else(comm, method, shape):
    for periodic, width, corners in product((False, True), (1, 2), (False, True)):
        grid = Grid(comm, shape, periodic=periodic, width=width)
        rounds = ROUNDS if method == "auto" and width == 1 else 2
        check(grid, method, corners, [("f8", 0, "C")], shared=method == "direct", rounds=rounds)


@settings(max_examples=25)
@given(
    shape=st.lists(st.integers(8, 12), min_size=1, max_size=3),
    wrap=st.lists(st.booleans(), min_size=3, max_size=3),
    sides=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=3, max_size=3),
    corners=st.booleans(),
    kinds=st.lists(
        st.tuples(
            st.sampled_from(["u1", "i2", "f4", "f8", "c16", RECORD]),
            st.booleans(),
            st.sampled_from(["C", "F"]),
        ),
        min_size=1,
        max_size=3,
    ),
    method=st.sampled_from(["datatype", "packed", "neighbor", "shared"]),
)
def test_any_fields_widths_and_borders(comm, shape, wrap, sides, corners, kinds, method):
    grid = Grid(comm, shape, periodic=wrap[: len(shape)], width=sides[: len(shape)])
    kinds = [(dtype, [int(stagger)] * len(shape), order) for dtype, stagger, order in kinds]
    check(grid, method, corners, kinds)


@pytest.mark.parametrize("method", METHODS)
def test_views_of_larger_arrays(comm, method):
    """Components of vectors and records, reversed and transposed: nothing between is touched."""
    if method == "direct":
        pytest.skip("method direct reads whole arrays in shared windows only")
    grid = Grid(comm, (12, 10), periodic=True, width=(1, 2))
    rows, columns = grid.local_shape
    vector = np.full((rows, columns, 2), -1.0)
    backwards = np.full((rows, columns), -1.0)[::-1, ::-1]
    turned = np.full((2 * columns, rows), -1.0)[::2].T
    bytes_backwards = np.zeros((rows, columns), "u1")[::-1, ::-1]
    records = np.zeros((rows, columns), np.dtype([("tag", "i2"), ("value", "f8")]))
    fields = [vector[..., 1], backwards, turned, bytes_backwards, records["value"]]
    for field in fields:
        field[...] = numbered(grid, field.dtype)
    Halo(grid, fields=fields, method=method).exchange(*fields)
    for field in fields:
        np.testing.assert_array_equal(field, expected(grid, field, 0, False))
    assert (vector[..., 0] == -1).all()
    assert (turned.base[1::2] == -1).all()
    assert not records["tag"].any()


@pytest.mark.parametrize("method", ["shared", "direct"])
def test_neighbours_on_other_nodes_get_messages(comm, method):
    """Two ranks a node, as far as the halo can see."""
    from hpckit.machine.node_memory import NodeMemory

    grid = Grid(comm, (12, 13, 9), periodic=True)
    node = grid.comm.Split(grid.rank // 2, grid.rank)
    memory = NodeMemory(node)
    memory.ranks = node.allgather(grid.rank)
    grid.node_memory = memory
    check(grid, method, True, [("f8", 0, "C"), ("i4", 0, "F")], shared=method == "direct", rounds=6)


def test_an_array_made_anew_at_the_same_address_is_bound_anew(comm):
    grid = Grid(comm, (32,), periodic=True)
    halo = Halo(grid, fields=[grid.zeros()], method="packed")
    for _ in range(20):
        field = numbered(grid)
        halo.exchange(field)
        np.testing.assert_array_equal(field, expected(grid, field, 0, False))
        del field
    gc.collect()
    assert not halo._bindings


@pytest.mark.parametrize("periodic", [False, True])
def test_interior_and_shell_make_the_owned_cells(comm, periodic):
    grid = Grid(comm, (9, 13, 8), periodic=periodic, width=((1, 2), 1, (0, 1)))
    field = numbered(grid)
    halo = Halo(grid, fields=[field])
    seen = np.zeros(field.shape, int)
    for box in (halo.interior, *halo.shell):
        seen[box] += 1
    np.testing.assert_array_equal(seen[own(grid)], 1)
    assert seen.sum() == seen[own(grid)].sum()
    halo.start(field)
    # Ghosts that other ranks fill, and nothing else.
    missing = expected(grid, field, 0, False) != field
    halo.wait()
    # A star-shaped stencil around the interior reaches none of them.
    for d, (lo, hi) in enumerate(grid.width):
        for step in range(-lo, hi + 1):
            box = list(halo.interior)
            box[d] = slice(box[d].start + step, box[d].stop + step)
            assert not missing[tuple(box)].any()


def test_explain_names_the_choice(comm):
    grid = Grid(comm, (24, 16), periodic=True)
    field = numbered(grid)
    halo = Halo(grid, fields=[field])
    for _ in range(ROUNDS):
        halo.exchange(field)
    assert halo.method in METHODS
    assert halo.method != "auto"
    assert len(set(comm.allgather(halo.method))) == 1
    assert "chosen" in halo.explain()
    assert f"method {halo.method}" in halo.explain()


def test_a_choice_is_kept_for_like_plans_alone(comm):
    """Staggered fields look alike but on the last rank, which must not race alone."""
    grid = Grid(comm, (12, 11))
    for kind in (("f8", 0, "C"), ("f8", (1, 0), "C"), ("f8", 0, "C")):
        check(grid, "auto", False, [kind], rounds=ROUNDS)
    field = numbered(grid)
    assert Halo(grid, fields=[field]).method != "auto"  # known from the first


# -- bad input: one clear error on every rank


def refused(comm, message: str, make) -> None:
    """All ranks raise, and all name the cause."""
    with pytest.raises(ConfigError, match=message):
        make()
    assert comm.allreduce(1) == comm.size


def test_wrong_fields_are_refused_on_all_ranks(comm):
    grid = Grid(comm, (16, 12))
    good, last = grid.zeros(), comm.rank == comm.size - 1
    read_only = grid.zeros()
    read_only.flags.writeable = False
    wrong = {
        "owns .* cells": np.zeros((3, 3)),
        "Python objects": np.zeros(grid.local_shape, object),
        "is a list": [1, 2],
        "read-only": read_only,
        "overlaps itself": np.broadcast_to(np.zeros(1), grid.local_shape),
    }
    for message, field in wrong.items():
        if message == "overlaps itself":
            field = np.lib.stride_tricks.as_strided(np.zeros(10_000), grid.local_shape, (8, 8))
        refused(comm, message, lambda field=field: Halo(grid, fields=[field if last else good]))
    refused(comm, "fields 0 and 1 overlap", lambda: Halo(grid, fields=[good, good]))
    refused(comm, "fields 0 and 1 overlap", lambda: Halo(grid, fields=[good, good[::-1]]))
    refused(comm, "no halo method 'magic'", lambda: Halo(grid, method="magic"))


def test_halo_wider_than_the_thinnest_block_is_refused(comm):
    if comm.size == 1:
        grid = Grid(comm, (4,), periodic=True)
        refused(
            comm,
            "wider than the thinnest block of 4 cells",
            lambda: Halo(grid, width=5, fields=[np.zeros(14)]),
        )
    else:
        grid = Grid(comm, (4 * comm.size,))
        refused(
            comm,
            "wider than the thinnest block of 4 cells",
            lambda: Halo(grid, 5, [np.zeros(4 + 10)]),
        )


def test_ranks_that_disagree_are_told(comm):
    if comm.size == 1:
        pytest.skip("one rank agrees with itself")
    grid = Grid(comm, (16, 12))
    refused(
        comm,
        "same on all ranks",
        lambda: Halo(grid, fields=[grid.zeros("f8" if comm.rank else "f4")]),
    )
    refused(
        comm,
        "same on all ranks",
        lambda: Halo(grid, fields=[grid.zeros()], corners=bool(comm.rank)),
    )


def test_other_arrays_than_planned_are_refused(comm):
    grid = Grid(comm, (16, 12))
    halo = Halo(grid, fields=[grid.zeros()], method="packed")
    refused(comm, "make another Halo", lambda: halo.exchange(grid.zeros("f4")))
    refused(comm, "planned for 1 fields, got 2", lambda: halo.exchange(grid.zeros(), grid.zeros()))


def test_direct_needs_shared_memory(comm):
    grid = Grid(comm, (16, 12), periodic=True)
    if comm.size == 1:
        pytest.skip("one rank has no neighbours to read from")
    halo = Halo(grid, fields=[grid.zeros()], method="direct")
    refused(comm, "not in shared memory", lambda: halo.exchange(grid.zeros()))


def test_start_and_wait_come_in_pairs(comm):
    grid = Grid(comm, (16,), periodic=True)
    field = grid.zeros()
    halo = Halo(grid, fields=[field])
    with pytest.raises(HpckitError, match="without start"):
        halo.wait()
    halo.start(field)
    with pytest.raises(HpckitError, match="twice"):
        halo.start(field)
    with pytest.raises(HpckitError, match="between"):
        halo.exchange(field)
    halo.wait()
