"""The choice: from a model that is given, in races whose times are given, and for real."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from hpckit.collectives import Allreduce, allreduce, empty
from hpckit.collectives.algorithms import ALGORITHMS, BY_MESSAGES, predict
from hpckit.collectives.algorithms.star import root
from hpckit.collectives.algorithms.twoshot import shares
from hpckit.collectives.channel import Channel
from hpckit.collectives.select import choose
from hpckit.machine.links import Links, pairings

HOSTS = 8
ALPHA, BETA = np.full((HOSTS, HOSTS), 4e-3), np.full((HOSTS, HOSTS), 8 / 300e6)


def of_tables(alpha=ALPHA, beta=BETA, node_of=tuple(range(HOSTS))):
    return Links.of_tables(node_of, alpha, beta, overhead=0.0, crowd=1.0, gamma=1e-10)


# The setting of the paper: 4 ms one way, 300 Mbit/s, one rank on each of eight hosts.
TPI_LLM = of_tables()


@pytest.mark.parametrize(
    ("algorithm", "milliseconds"),
    [
        ("star", 20.2),
        ("twoshot", 9.5),
        ("recursive_doubling", 14.6),
        ("rabenseifner", 25.5),
        ("ring", 57.5),
    ],
)
def test_predictions_at_the_setting_of_the_paper(algorithm, milliseconds):
    assert 1e3 * predict(TPI_LLM, 32 * 1024)[algorithm] == pytest.approx(milliseconds, rel=0.02)


def test_small_messages_are_one_latency_and_large_ones_least_bytes():
    def best(nbytes):
        costs = predict(TPI_LLM, nbytes)
        return min(costs, key=costs.__getitem__)

    assert best(8) == "oneshot"
    assert best(1 << 18) == "twoshot"
    assert predict(TPI_LLM, 1 << 18, ranks=4096)["ring"] > 30  # 8190 latencies
    assert predict(replace(TPI_LLM, node_of=(0,)), 8) == {}


def test_a_slow_host_owns_less():
    slow = BETA.copy()
    slow[3, :] = slow[:, 3] = 4 * slow[0, 1]
    links = of_tables(beta=slow)
    cuts = np.diff(shares(links, 10_000))
    assert cuts.sum() == 10_000 and cuts[3] == 0 and cuts[0] > 1400
    assert shares(TPI_LLM, 10_000) is None
    per_element = np.array([4.0 if r == 3 else 1.0 for r in range(HOSTS)])
    spent = per_element * (10_000 + (HOSTS - 2) * cuts)
    equal = per_element * (10_000 + (HOSTS - 2) * 1250)
    assert spent.max() < 0.6 * equal.max()


def test_the_star_has_its_middle_near_all():
    far = ALPHA.copy()
    far[0, :] = far[:, 0] = 20e-3
    far[5, 0] = far[0, 5] = 4e-3
    assert root(of_tables(far)) == 5


def test_groups_are_what_short_links_connect():
    alpha = np.full((6, 6), 10e-3)
    for group in ((0, 1, 2), (3, 5), (4,)):
        alpha[np.ix_(group, group)] = 1e-3
    node_of = (0, 0, 1, 2, 3, 4, 5)
    assert of_tables(alpha, alpha, node_of).groups() is None  # a group of one node
    alpha[3, 4] = alpha[4, 3] = alpha[5, 4] = alpha[4, 5] = 1e-3
    assert of_tables(alpha, alpha, node_of).groups() == [0, 0, 0, 0, 1, 1, 1]
    assert TPI_LLM.groups() is None


@pytest.mark.parametrize("nodes", [17, 1000, 4096])
@pytest.mark.parametrize("racks", ["of neighbours", "in turn"])
def test_thousands_of_nodes(nodes, racks):
    """Groups, slices and the middle of a star from pairs that are far fewer than all."""
    rng = np.random.default_rng(nodes)
    rack = (
        np.repeat(np.arange(nodes), 3 + rng.integers(0, nodes // 6, nodes))[:nodes]
        if racks == "of neighbours"
        else None
    )
    rack = np.minimum(rack, rack[-2]) if rack is not None else np.arange(nodes) % 16 % (nodes // 8)
    pairs = np.array([pair for each in pairings(nodes) for pair in each])
    assert len(pairs) < 7 * nodes and len(np.unique(pairs, axis=0)) == len(pairs)
    alpha = np.where(rack[pairs[:, 0]] == rack[pairs[:, 1]], 1e-6, 9e-6) * rng.uniform(
        1, 1.2, len(pairs)
    )
    ranks = np.repeat(np.arange(nodes), 2)
    beta = np.where((pairs == 5).any(axis=1), 4e-10, 1e-10)
    links = Links(tuple(ranks.tolist()), pairs, alpha, beta, overhead=0.0, crowd=1.0, gamma=1e-10)
    assert links.groups() == rack[ranks].tolist()
    cuts = np.diff(shares(links, 10**7))
    assert cuts.sum() == 10**7 and set(np.flatnonzero(cuts < cuts.max() - 1)) == {10, 11}
    assert 0 <= root(links) < len(ranks) and predict(links, 1 << 20)["hierarchical"] > 0


@pytest.mark.parametrize("nodes", range(1, 40))
def test_every_node_is_measured(nodes):
    rounds = pairings(nodes)
    for pairs in rounds:
        flat = [node for pair in pairs for node in pair]
        assert len(set(flat)) == len(flat)
    every = {pair for pairs in rounds for pair in pairs}
    assert every <= {(i, j) for j in range(nodes) for i in range(j)} and sum(
        map(len, rounds)
    ) == len(every)
    assert (
        len(every) == nodes * (nodes - 1) // 2
        if nodes <= 16
        else every >= {(i, i + 1) for i in range(nodes - 1)}
    )


@pytest.mark.mpi
def test_all_ranks_choose_what_is_fastest_for_the_slowest(comm):
    channel = Channel(comm)
    channel.links = replace(TPI_LLM, node_of=tuple(range(comm.size)))
    choice = choose(channel, 1000, "key", ["native", "shared", "ring", "star"])
    assert choice.names[0] == "native" and len(choice.names) >= min(comm.size, 3)
    times = dict.fromkeys(choice.names, 2e-3) | {choice.names[-1]: 1e-3}
    while not _next(choice).over:
        choice.tell(times[choice.current] if comm.rank == 0 else 1e-9)
    assert choice.current == choice.names[-1]
    again = choose(channel, 1000, "key", ["native", "shared", "ring", "star"])
    assert again.over and again.current == choice.current


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", [*BY_MESSAGES, "hierarchical"])
def test_messages_between_far_nodes_are_short(comm, algorithm, monkeypatch):
    Channel.of(comm).links = replace(TPI_LLM, node_of=tuple(range(comm.size)))
    counts = []
    make = Channel.of(comm).comm.Send_init
    watched = type(
        "Watched",
        (MPI.Intracomm,),
        {"Send_init": lambda _, b, *to: counts.append(b[1]) or make(b, *to)},
    )
    monkeypatch.setattr(Channel.of(comm), "comm", watched(Channel.of(comm).comm))
    for n in (1, 4097, 20_001):
        counts.clear()
        x = np.arange(n) + comm.rank
        Allreduce(comm, x, algorithm=algorithm)()
        np.testing.assert_array_equal(
            x, comm.size * np.arange(n) + comm.size * (comm.size - 1) // 2
        )
        assert max(counts, default=0) <= 4096  # of 8 bytes
    Allreduce(comm, np.zeros(2_000_000), algorithm=algorithm)
    # So long ones may wait for an answer.
    assert algorithm == "hierarchical" or max(counts, default=10**6) > 4096


@pytest.mark.mpi(min_size=2)
def test_it_is_chosen_again_when_it_became_slow(comm, caplog):
    choice = choose(Channel(comm), 1000, "key", ["native", "shared"])
    times = {"native": 2e-3, "shared": 1e-3}
    while not _next(choice).over:
        choice.tell(times[choice.current])
    assert choice.current == "shared" and choice.watching
    times["shared"] = 5e-3
    for _ in range(64):
        assert choice.over
        choice.tell(times[choice.current])
        choice.next()
    assert not choice.over and (comm.rank or "choosing again" in caplog.text)
    while not choice.over:
        choice.tell(times[choice.current])
        choice.next()
    assert choice.current == "native"


def _next(choice):
    choice.next()
    return choice


@pytest.mark.mpi
@pytest.mark.parametrize("make", [lambda comm, n: np.empty(n), lambda comm, n: empty(comm, n)])
def test_auto_gives_the_sum_while_it_races_and_after(comm, make):
    for n, chunks in ((1, 1), (5000, 1), (5000, 3)):
        x = make(comm, n)
        plan = Allreduce(comm, x, chunks=chunks)
        for call in itertools.count():
            # The longest race is over, and so is a second one.
            if call >= 100 and plan.algorithm != "auto":
                break
            x[:] = np.arange(n) + comm.rank + call
            plan()
            np.testing.assert_array_equal(
                x,
                comm.size * (np.arange(n) + call) + comm.size * (comm.size - 1) // 2,
                err_msg=f"{plan.algorithm}",
            )
        assert (
            call < 250
            and plan.algorithm in ALGORITHMS
            and len(set(comm.allgather(plan.algorithm))) == 1
        )
        assert re.search(rf"{plan.algorithm} .*chosen", plan.explain())
    assert allreduce(comm, np.ones(3)).tolist() == [comm.size] * 3


@pytest.mark.mpi
def test_auto_keeps_the_order_of_an_operation_that_does_not_commute(comm):
    left = MPI.Op.Create(lambda a, b, _: b.__setitem__(slice(None), bytes(a)), commute=False)
    x = np.full(3, float(comm.rank))
    plan = Allreduce(comm, x, op=left)
    for _ in range(40):
        x[:] = comm.rank
        plan()
        assert (x == 0).all(), plan.algorithm
    left.Free()
