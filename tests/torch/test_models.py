"""The networks: shapes, symmetries, other grids, and that each learns."""

import numpy as np
import pytest
import torch
from mpi4py import MPI

from hpckit.errors import ConfigError, HpckitError
from hpckit.names import SURROGATE_MODELS
from hpckit.surrogate.engine import Options, Shapes, make
from hpckit.surrogate.models.fno import FNO, Waves, fno
from hpckit.surrogate.models.grids import resampled

SERIES = {16: Shapes(2, 1, {"u": (16,)}), 17: Shapes(2, 1, {"u": (17,)})}
TWO = {"u": (8, 10), "v": (8, 10)}
CASES = [
    ("fc", Shapes(3, 0, {"u": (4, 4)}), {"hidden": [32]}),
    ("deeponet", Shapes(3, 0, {"u": (4, 4), "v": (6,)}), {"width": 32}),
    ("deeponet", Shapes(3, 1, {"u": (4, 4)}), {"width": 32}),
    ("fno", SERIES[16], {"width": 8}),
    ("fno", SERIES[17], {"width": 8, "where": False}),
    ("fno", Shapes(3, 0, {"u": (16,)}), {"width": 8}),
    ("fno", Shapes(2, 1, TWO), {"width": 8, "modes": 3}),
    ("fno", Shapes(2, 2, {"u": (7, 5)}), {"width": 8, "modes": 3}),
    ("fno", Shapes(1, 1, {"u": (4, 5, 6)}), {"width": 4, "modes": 2}),
    ("conv", Shapes(3, 2, {"u": (20,)}), {"width": 8, "noise": 0.01}),
    ("conv", Shapes(3, 2, TWO), {"width": 8, "kernel": 3, "periodic": False}),
]


def ids(case):
    return case if isinstance(case, str) else None


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize(("name", "shapes", "sizes"), CASES, ids=ids)
def test_it_learns(name, shapes, sizes, bf16):
    options = Options(rate=1e-2, sizes=sizes, bf16=bf16)
    engine = make(name, shapes, MPI.COMM_SELF, 0, options)
    assert all(weights.dtype == np.float32 for weights in engine.weights())
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, shapes.inputs)).astype(np.float32)
    y = np.tanh(x[:, :1] + np.linspace(0, 1, shapes.outputs, dtype=np.float32))
    before = engine.weights()
    losses = [engine.step(x, y).mean() for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]
    assert all((one != other).any() for one, other in zip(engine.weights(), before, strict=True))
    assert engine.predict(x).shape == (16, shapes.outputs)


def test_every_network_is_tried_here():
    assert {name for name, *_ in CASES} == {*SURROGATE_MODELS} - {"mlp"}


def wave(n, rng):
    """Band-limited: waves 0 to 6, at n points."""
    at = 2 * np.pi * np.arange(n) / n
    size, phase = rng.normal(size=(2, 7))
    return sum(size[k] * np.cos(k * at + phase[k]) for k in range(7))


@pytest.mark.parametrize("fine", [32, 48])
def test_fno_is_the_same_function_on_finer_grids(fine):
    torch.manual_seed(0)
    model = fno(SERIES[16], width=8, modes=9)
    coarse, finer = (wave(n, np.random.default_rng(1)) for n in (16, fine))
    scalars = [0.3, -0.7]
    with torch.no_grad():
        y = model(torch.tensor([[*scalars, *coarse]], dtype=torch.float32))
        again = model(torch.tensor([[*scalars, *finer]], dtype=torch.float32), shape=(fine,))
    assert again.shape == (1, fine)
    np.testing.assert_allclose(again[:, :: fine // 16], y, rtol=0, atol=1e-5 * y.abs().max())
    assert y.abs().max() > 0.01


def test_fno_is_the_same_function_on_finer_grids_in_two_dimensions():
    torch.manual_seed(0)
    model = fno(Shapes(1, 1, {"u": (16, 15)}), width=8, modes=5)
    rng = np.random.default_rng(1)
    coarse = np.outer(wave(16, rng), wave(15, rng))
    rng = np.random.default_rng(1)
    finer = np.outer(wave(32, rng), wave(45, rng))
    with torch.no_grad():
        y = model(torch.tensor([[0.3, *coarse.ravel()]], dtype=torch.float32)).reshape(16, 15)
        x = torch.tensor([[0.3, *finer.ravel()]], dtype=torch.float32)
        again = model(x, shape=(32, 45)).reshape(32, 45)
    np.testing.assert_allclose(again[::2, ::3], y, rtol=0, atol=1e-5 * y.abs().max())


@pytest.mark.parametrize(("old", "new"), [(16, 32), (16, 33), (15, 30), (17, 16), (32, 16)])
def test_interpolation_of_waves_is_exact(old, new):
    rows = [torch.tensor(wave(n, np.random.default_rng(3)))[None, None] for n in (old, new)]
    np.testing.assert_allclose(resampled(rows[0], (new,)), rows[1], atol=1e-12)


def test_interpolation_keeps_values_at_shared_points():
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    np.testing.assert_allclose(resampled(x, (32,))[..., ::2], x, atol=1e-12)


def test_shifted_fields_give_shifted_results():
    torch.manual_seed(0)
    model = fno(SERIES[17], width=8, where=False)
    u = torch.randn(17)
    x = torch.stack([torch.cat([torch.ones(2), u.roll(shift)]) for shift in (0, 5)])
    with torch.no_grad():
        y, shifted = model(x)
    np.testing.assert_allclose(y.roll(5), shifted, atol=1e-5 * y.abs().max())


def test_waves_against_a_sum_over_waves():
    """One layer of waves is a convolution: against NumPy, wave by wave."""
    torch.manual_seed(0)
    layer = Waves(2, 3, (7, 6))
    x = torch.randn(1, 2, 7, 6)
    waves = np.fft.fft2(x[0].numpy()) / 42
    expected = np.zeros((2, 7, 6))
    weight = torch.view_as_complex(layer.weight).detach().numpy()
    rows, columns = np.meshgrid(np.arange(7) / 7, np.arange(6) / 6, indexing="ij")
    for corner, first in enumerate((0, -3)):
        for i in range(3):
            for j in range(3):
                k = first + i
                out = waves[:, k, j] @ weight[corner, i, j]
                turn = np.exp(2j * np.pi * (k * rows + j * columns))
                expected += (1 if j == 0 else 2) * (out[:, None, None] * turn).real
    # Of wave 0 of the last dimension the inverse transform takes the part that is real everywhere.
    given = layer(x.movedim(1, -1))[0].movedim(-1, 0)
    np.testing.assert_allclose(given.detach().numpy(), expected, atol=1e-5)


def test_in_bfloat16_transforms_are_of_float32():
    torch.manual_seed(0)
    model = fno(SERIES[17], width=8)
    x = torch.randn(4, 19)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    with torch.no_grad():
        exact = model(x)
    assert y.dtype == torch.float32
    assert 0 < (y - exact).abs().max() < 0.05 * exact.abs().max()


def test_noise_is_of_the_training_only():
    shapes = Shapes(1, 2, {"u": (12,)})
    model = make("conv", shapes, MPI.COMM_SELF, 0, Options(sizes={"noise": 0.1})).module
    x = torch.randn(2, 25)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("name", "shapes", "says"),
    [
        ("fno", Shapes(1, 1, {"u": (4,), "v": (5,)}), "fields of one shape"),
        ("fno", Shapes(1, 1, {"u": (2, 2, 2, 2)}), r"in \(1, 2, 3\) dimensions"),
        ("conv", Shapes(1, 0, {"u": (4,)}), "needs fields of the past"),
        ("conv", Shapes(1, 1, {"u": (4, 4, 4)}), r"in \(1, 2\) dimensions"),
    ],
)
def test_what_a_network_is_not_for(comm, name, shapes, says):
    with pytest.raises(ConfigError, match=says):
        make(name, shapes, comm)


@pytest.mark.parametrize("name", ["fno", "conv"])
def test_scalars_that_do_not_count(name):
    shapes = Shapes(3, 1, {"u": (16,)}, ("a", "b", "time"))
    sizes = {"width": 4, "scalars": ("time", "b")}
    engine = make(name, shapes, MPI.COMM_SELF, 0, Options(sizes=sizes))
    x = np.ones((3, 19), np.float32)
    x[1, 0], x[2, 1] = 5, 5
    base, without, counts = engine.predict(x)
    assert (without == base).all() and (counts != base).any()
    with pytest.raises(ConfigError, match="among a, b, time"):
        make(name, shapes, MPI.COMM_SELF, 0, Options(sizes={"scalars": ("c",)}))


@pytest.mark.mpi
def test_sizes_that_it_does_not_have(comm):
    with pytest.raises(HpckitError, match="heads"):
        make("fno", SERIES[16], comm, 0, Options(sizes={"heads": 3}))


def test_fno_is_a_class_that_can_be_imported():
    assert isinstance(fno(SERIES[16], width=4), FNO)
