"""Gradient steps by anything with `partial_fit` and `predict`, as scikit-learn has it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpckit.errors import ConfigError, HpckitError, together
from hpckit.surrogate.engine import Options, Shapes, check_outputs, check_same

if TYPE_CHECKING:
    from mpi4py import MPI

_OTHERS = ("optimizer", "scheduler", "threads", "bf16", "compress", "local", "bucket")


def mlp(shapes: Shapes, hidden: Sequence[int] = (256, 256)) -> Any:
    """The fully connected network of `hpckit.surrogate.models.fc`, of scikit-learn and for Adam."""
    try:
        from sklearn.neural_network import MLPRegressor
    except ImportError as error:
        raise ConfigError(
            f"model 'mlp' needs scikit-learn ({error}): pip install 'hpckit[sklearn]'"
        ) from error
    return MLPRegressor(hidden_layer_sizes=tuple(hidden), learning_rate_init=1e-3)


class SklearnPredictor:
    """A trained model with `predict`."""

    def __init__(self, model: Any, shapes: Shapes) -> None:
        self.model = model
        self.shapes = shapes

    def predict(self, x: np.ndarray) -> np.ndarray:
        predicted = np.asarray(self.model.predict(x), np.float32)
        return predicted.reshape(len(x), self.shapes.outputs)


class SklearnEngine(SklearnPredictor):
    """One `partial_fit` is one gradient step; on one trainer.

    A `random_state` that is None becomes the seed; `batch_size` becomes that of each batch. Such
    models learn their shapes from data, so they see one sample of zeros, the mean, before all.
    """

    def __init__(
        self, model: Any, shapes: Shapes, comm: MPI.Intracomm, seed: int, options: Options
    ) -> None:
        super().__init__(model, shapes)
        self._options = options
        self._steps = 0
        with together(comm):
            _check(model, comm.size, options)
            if getattr(model, "random_state", seed) is None:
                model.random_state = seed
            self._rate = options.rate or getattr(model, "learning_rate_init", 0.0)
            self._try()

    @classmethod
    def load(cls, content: bytes) -> SklearnPredictor:
        """The predictor of `export`'s content."""
        return SklearnPredictor(*pickle.loads(content))

    def step(self, x: np.ndarray | None, y: np.ndarray | None) -> np.ndarray | None:
        if x is None or y is None:
            return None
        losses = np.square(self.predict(x) - y).mean(axis=1)
        if not np.isfinite(losses).all():
            raise HpckitError(
                f"the loss is not finite at gradient step {self._steps}: take a smaller rate"
            )
        self._fit(x, y)
        self._steps += 1
        return losses

    def finish(self) -> None:
        pass

    def state(self) -> bytes:
        return pickle.dumps((self.about(), self._steps, self.model))

    def restore(self, state: bytes) -> None:
        about, steps, model = pickle.loads(state)
        if type(model) is not type(self.model) or _sizes(model) != _sizes(self.model):
            raise ConfigError(
                f"the state is of {model!r} with weights {_sizes(model)}, the model is "
                f"{self.model!r} with {_sizes(self.model)}"
            )
        check_same(about, self.about())
        self._steps = steps
        self.model = model

    def export(self) -> bytes:
        return pickle.dumps(("scikit-learn", pickle.dumps((self.model, self.shapes))))

    def weights(self) -> list[np.ndarray]:
        return [weights.copy() for weights in _weights(self.model)]

    def about(self) -> dict[str, Any]:
        import sklearn

        library = f"scikit-learn {sklearn.__version__}, numpy {np.__version__}"
        threads = os.environ.get("OPENBLAS_NUM_THREADS", "all")
        options = self._options
        return {
            "library": library,
            "threads": threads,
            "model": type(self.model).__name__,
            "rate": self._rate,
            "halve_every": options.halve_every,
        }

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        if hasattr(self.model, "batch_size"):
            self.model.batch_size = len(x)
        if self._rate:
            self._set_rate(self._options.rate_at(self._steps, self._rate))
        self.model.partial_fit(x, y if self.shapes.outputs > 1 else y.ravel())

    def _set_rate(self, rate: float) -> None:
        self.model.learning_rate_init = rate
        # Made by the first partial_fit, which copies the rate.
        if optimizer := getattr(self.model, "_optimizer", None):
            optimizer.learning_rate_init = optimizer.learning_rate = rate

    def _try(self) -> None:
        shapes = self.shapes
        x = np.zeros((1, shapes.inputs), np.float32)
        self._fit(x, np.zeros((1, shapes.outputs), np.float32))
        check_outputs(np.reshape(self.model.predict(x), (1, -1)).shape, shapes)


def _check(model: Any, trainers: int, options: Options) -> None:
    if trainers > 1:
        raise ConfigError(
            f"{type(model).__name__} trains by partial_fit, on one trainer: trainers={trainers} "
            "need a torch module"
        )
    default = Options()
    given = [name for name in _OTHERS if getattr(options, name) != getattr(default, name)]
    if given:
        raise ConfigError(
            f"options {', '.join(given)} are for torch modules, not for {type(model).__name__}"
        )
    if (options.rate or options.halve_every) and not hasattr(model, "learning_rate_init"):
        raise ConfigError(
            f"{type(model).__name__} has no learning_rate_init that rate and halve_every could "
            "set: leave them out"
        )


def _weights(model: Any) -> list[np.ndarray]:
    """What scikit-learn's models of numbers call their weights."""
    names = ("coefs_", "intercepts_", "coef_", "intercept_")
    found = [getattr(model, name) for name in names if hasattr(model, name)]
    return [weights for each in found for weights in (each if isinstance(each, list) else [each])]


def _sizes(model: Any) -> list[tuple[int, ...]]:
    return [weights.shape for weights in _weights(model)]
