"""Gradient steps by torch: against plain torch, among trainers, saved and restored, bad input."""

import logging

import numpy as np
import pytest
import torch
from mpi4py import MPI
from torch import nn

from hpckit.errors import ConfigError, HpckitError
from hpckit.surrogate.engine import Options, Shapes, load, make

pytestmark = pytest.mark.mpi
SHAPES = Shapes(3, 0, {"u": (4, 2), "v": (1,)})
SMALL = Options(sizes={"hidden": (16, 16)})


def batches(n, rank=0, rows=12):
    for step in range(n):
        rng = np.random.default_rng([step, rank])
        x = rng.normal(size=(rows, 3)).astype(np.float32)
        yield x, np.sin(x @ np.ones((3, 9), np.float32))


def net(shapes):
    return nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 9))


def train(engine, data):
    return [engine.step(x, y) for x, y in data]


def equal(engine, other):
    for mine, its in zip(engine.weights(), other.weights(), strict=True):
        np.testing.assert_array_equal(mine, its)


def the_same_everywhere(comm, engine):
    assert len(set(comm.allgather(b"".join(each.tobytes() for each in engine.weights())))) == 1


def test_steps_are_those_of_a_loop_with_torch():
    engine = make("fc", SHAPES, MPI.COMM_SELF, 3, Options(rate=0.01, halve_every=3))
    torch.manual_seed(3)
    module = make("fc", SHAPES, MPI.COMM_SELF, 3).module
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01, fused=True)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    for x, y in batches(10):
        losses = (module(torch.from_numpy(x)) - torch.from_numpy(y)).square().mean(1)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        scheduler.step()
        np.testing.assert_array_equal(engine.step(x, y), losses.detach().numpy())
    for mine, other in zip(engine.weights(), module.parameters(), strict=True):
        np.testing.assert_array_equal(mine, other.detach().numpy())


@pytest.mark.parametrize("bucket", [1, 600, 1 << 20])
def test_trainers_take_the_step_of_all_their_samples(comm, bucket):
    engine = make("fc", SHAPES, comm, 0, Options(bucket=bucket))
    whole = make("fc", SHAPES, MPI.COMM_SELF, 0)
    everybody = [[*batches(5, rank)] for rank in range(comm.size)]
    for step in range(5):
        x, y = map(np.concatenate, zip(*(data[step] for data in everybody), strict=True))
        losses = whole.step(x, y).reshape(comm.size, -1)
        mine = engine.step(*everybody[comm.rank][step])
        np.testing.assert_allclose(mine, losses[comm.rank], rtol=1e-4)
        the_same_everywhere(comm, engine)
    for mine, other in zip(engine.weights(), whole.weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)


@pytest.mark.mpi(min_size=2)
def test_two_trainers_take_the_steps_of_torchs_distributed_data_parallel(comm):
    """To the bit: it divides each trainer's gradients by their number, and then adds them."""
    two = comm.Split(0 if comm.rank < 2 else MPI.UNDEFINED, comm.rank)
    if two == MPI.COMM_NULL:
        return
    engine = make("fc", SHAPES, two, 0, Options(bucket=2000))
    module = make("fc", SHAPES, MPI.COMM_SELF, 0).module
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    for both in zip(batches(52, 0), batches(52, 1), strict=True):
        gradients = [gradient(module, *batch) for batch in both]
        for parameter, first, second in zip(module.parameters(), *gradients, strict=True):
            parameter.grad = first / 2 + second / 2
        optimizer.step()
        engine.step(*both[two.rank])
    two.Free()
    for mine, other in zip(engine.weights(), module.parameters(), strict=True):
        np.testing.assert_array_equal(mine, other.detach().numpy())


def gradient(module, x, y):
    loss = (module(torch.from_numpy(x)) - torch.from_numpy(y)).square().mean(1).mean()
    return torch.autograd.grad(loss, [*module.parameters()])


def test_no_step_without_a_batch_on_every_trainer(comm):
    engine = make("fc", SHAPES, comm, 0, SMALL)
    first = next(batches(1, comm.rank))
    engine.step(*first)
    before = engine.weights()
    mine = first if comm.rank != comm.size - 1 else (None, None)
    assert engine.step(*mine) is None
    for one, other in zip(engine.weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    other = make("fc", SHAPES, comm, 0, SMALL)
    train(other, [first, first])
    engine.step(*first)
    equal(engine, other)


class Odd(nn.Module):
    """Real and complex parameters of two precisions; some that the result needs not always."""

    def __init__(self, shapes):
        super().__init__()
        self.first = nn.Linear(3, 9)
        self.turn = nn.Parameter(torch.ones(9, dtype=torch.complex64))
        self.fine = nn.Parameter(torch.ones(9, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(5))
        self.frozen = nn.Parameter(torch.ones(5), requires_grad=False)

    def forward(self, x):
        self.zero_grad()  # as modules of users may
        y = self.first(x)
        return ((y * self.turn).real + y * self.fine).float()


def test_odd_parameters(comm):
    engine, whole = make(Odd, SHAPES, comm), make(Odd, SHAPES, MPI.COMM_SELF)
    everybody = [[*batches(5, rank)] for rank in range(comm.size)]
    for step in range(5):
        engine.step(*everybody[comm.rank][step])
        whole.step(*map(np.concatenate, zip(*(data[step] for data in everybody), strict=True)))
    the_same_everywhere(comm, engine)
    for mine, other in zip(engine.weights(), whole.weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-5)
    assert (engine.module.frozen == 1).all()


def test_all_begin_with_the_first_trainers_weights(comm):
    def drawn(shapes):
        torch.manual_seed(comm.rank)
        return nn.Linear(3, 9)

    the_same_everywhere(comm, make(drawn, SHAPES, comm))


def plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)


def momentum(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("at", [5, 11])
@pytest.mark.parametrize(
    "options",
    [
        Options(halve_every=3),
        Options(optimizer=momentum, scheduler=cosine),
        Options(scheduler=plateau),
        Options(local={"tau": 2}),
        Options(local={"tau": 3, "momentum": 0.5}),
        Options(local={"tau": 2, "overlap": False}),
        Options(compress="int8"),
        Options(compress="topk:0.2"),
        Options(compress="layerwise:1"),
    ],
    ids=[
        *("adam", "cosine", "plateau", "local", "momentum", "averaging"),
        *("int8", "topk", "layerwise"),
    ],
)
def test_restored_equals_uninterrupted(comm, options, at):
    data = [*batches(14, comm.rank)]
    whole = make(net, SHAPES, comm, 0, options)
    expected = train(whole, data)
    first = make(net, SHAPES, comm, 0, options)
    train(first, data[:at])
    state = first.state()
    second = make(net, SHAPES, comm, 5, options)
    second.restore(state)
    np.testing.assert_array_equal(train(second, data[at:]), expected[at:])
    equal(second, whole)
    for engine in (second, whole):
        engine.finish()
    equal(second, whole)
    the_same_everywhere(comm, second)


def test_saving_changes_nothing(comm):
    options = Options(local={"tau": 2})
    one, other = (make(net, SHAPES, comm, 0, options) for _ in range(2))
    data = [*batches(6, comm.rank)]
    torch.manual_seed(0)
    expected = train(one, data)
    torch.manual_seed(0)
    for batch, losses in zip(data, expected, strict=True):
        other.state()
        np.testing.assert_array_equal(other.step(*batch), losses)
    equal(one, other)


@pytest.mark.parametrize("how", ["fp16", "bf16", "int8", "topk:0.5", "powersgd:2", "layerwise:2"])
def test_with_compressed_gradients_it_learns_and_trainers_agree(comm, how):
    engine = make("fc", SHAPES, comm, 0, Options(sizes={"hidden": (16,)}, compress=how, rate=0.01))
    losses = [engine.step(x, y).mean() for x, y in batches(60, comm.rank)]
    the_same_everywhere(comm, engine)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_local_updates_learn_and_agree_in_the_end(comm):
    engine = make("fc", SHAPES, comm, 0, Options(local={"tau": 4}, rate=0.01))
    losses = [engine.step(x, y).mean() for x, y in batches(60, comm.rank)]
    engine.finish()
    the_same_everywhere(comm, engine)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_module_is_copied_and_predicts_after_export(comm):
    module = nn.Linear(3, 9)
    before = module.weight.detach().clone()
    engine = make(module, SHAPES, comm, 0, Options(bf16=True))
    train(engine, batches(3, comm.rank))
    x = next(batches(1))[0]
    again = load(engine.export())
    np.testing.assert_array_equal(again.predict(x), engine.predict(x))
    assert again.predict(x).dtype == np.float32
    assert torch.equal(module.weight, before)


def test_predicting_draws_nothing(comm):
    one, other = (make(net, SHAPES, comm) for _ in range(2))
    x, y = next(batches(1, comm.rank))
    torch.manual_seed(0)
    one.predict(x)
    one.step(x, y)
    torch.manual_seed(0)
    other.step(x, y)
    equal(one, other)


class Fails(nn.Module):
    def __init__(self, on):
        super().__init__()
        self.inner = nn.Linear(3, 9)
        self.on = on
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.on and self.calls == 3:
            raise ValueError("no more")
        return self.inner(x)


def test_an_error_on_one_trainer_is_raised_on_all(comm):
    engine = make(Fails(comm.rank == comm.size - 1), SHAPES, comm)
    x, y = next(batches(1))
    engine.step(x, y)
    with pytest.raises(HpckitError, match="ValueError: no more"):
        engine.step(x, y)


def test_a_loss_that_is_not_finite_is_an_error_on_all(comm):
    engine = make("fc", SHAPES, comm)
    x, y = next(batches(1))
    if comm.rank == 0:
        y[0, 0] = np.inf
    with pytest.raises(HpckitError, match="not finite at gradient step 0"):
        engine.step(x, y)


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (nn.Linear(3, 7), {}, r"gives \(1, 7\) .* \(1, 9\) is needed"),
        (nn.Linear(4, 9), {}, "shapes cannot be multiplied"),
        (nn.Tanh(), {}, r"gives \(1, 3\)|no parameters"),
        (nn.Identity(), {}, r"gives \(1, 3\)|no parameters"),
        ("fc", {"sizes": {"depth": 3}}, "depth"),
        ("fc", {"optimizer": momentum, "rate": 0.1}, "rate=0.1 is for our Adam"),
        ("fc", {"scheduler": cosine, "halve_every": 3}, "halve_every=3 and a scheduler"),
    ],
)
def test_bad_models(comm, model, options, says):
    with pytest.raises(HpckitError, match=says):
        make(model, SHAPES, comm, 0, Options(**options))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (nn.Linear(3, 9).half(), {}, "torch.float16|Half|half"),
        ("fc", {"compress": "gzip"}, "compression 'gzip' must be"),
        ("fc", {"local": {"tau": 0}}, "tau=0"),
        ("fc", {"local": {"often": 3}}, "no keywords of LocalUpdates"),
        (Odd, {"local": {"tau": 2}}, "one real dtype"),
    ],
)
def test_bad_options_of_several_trainers(comm, model, options, says):
    with pytest.raises(HpckitError, match=says):
        make(model, SHAPES, comm, 0, Options(**options))


@pytest.mark.mpi(min_size=2)
def test_trainers_that_differ(comm):
    with pytest.raises(ConfigError, match=r"parameters of the model.* must be the same"):
        make(nn.Sequential(nn.Linear(3, 5 + comm.rank), nn.LazyLinear(9)), SHAPES, comm)


def test_a_state_of_another_model_is_refused(comm):
    state = make("fc", SHAPES, comm).state()
    with pytest.raises(ConfigError, match="the state is of another model"):
        make("fc", SHAPES, comm, 0, SMALL).restore(state)


def test_it_warns_where_bits_may_differ(comm, caplog):
    state = make("fc", SHAPES, comm, 0, Options(threads=1)).state()
    with caplog.at_level(logging.WARNING):
        make("fc", SHAPES, comm).restore(state)
        assert not caplog.records
        make("fc", SHAPES, comm, 0, Options(halve_every=7)).restore(state)
    assert "halve_every was 0, is 7" in caplog.text
