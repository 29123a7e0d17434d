"""Engines: what takes gradient steps on batches, and predicts; `make` makes one of any model."""

from __future__ import annotations

import copy
import math
import pickle
import pkgutil
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hpckit.errors import ConfigError, cause, together
from hpckit.log import get_logger
from hpckit.names import SURROGATE_MODELS

if TYPE_CHECKING:
    from mpi4py import MPI

# By their names: each is imported only where one of its models is trained.
_ENGINES = {
    "scikit-learn": "hpckit.surrogate.sklearn_engine:SklearnEngine",
    "torch": "hpckit.surrogate.torch_engine:TorchEngine",
}


@dataclass(frozen=True)
class Shapes:
    """What goes into a model and comes out of it, flat.

    scalars : parameters and time: the first columns of an input
    history : how many times all fields come after them
    fields : name -> shape of the whole field, in the order in which they lie in a vector
    names : of the scalars, where models shall choose among them

    ::

        Shapes(6, 0, {"u": (32, 32)}).outputs  # 1024
    """

    scalars: int
    history: int
    fields: Mapping[str, tuple[int, ...]]
    names: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Numbers in all fields."""
        return sum(math.prod(shape) for shape in self.fields.values())

    @property
    def inputs(self) -> int:
        """Columns of an input."""
        return self.scalars + self.history * self.outputs


@dataclass(frozen=True, kw_only=True)
class Options:
    """How gradient steps are taken; from `optimizer` on for torch only.

    rate : learning rate; None: the model's own, 1e-3 for ours
    halve_every : gradient steps after which the rate is halved, again and again; 0: never
    sizes : keywords for the function that makes the model, such as `{"width": 32}`
    optimizer : from parameters to a `torch.optim.Optimizer`; None: Adam
    scheduler : from the optimizer to a scheduler, which takes a step after each gradient step
    threads : of each trainer
    bf16 : compute in bfloat16 where autocast finds that good
    compress : sum gradients in fewer bytes: "fp16", "bf16", "int8", "topk:FRACTION",
        "powersgd:RANK", or "layerwise:RANK", which chooses for each layer what loses no more in
        all than PowerSGD of that rank does (L-GreCo)
    local : keywords of `hpckit.lossy.LocalUpdates`, such as `{"tau": 8}`: trainers take steps of
        their own and average parameters now and then (CO2), instead of gradients at each step
    bucket : bytes of gradients that are summed together while others are still computed; None: all
        at once on one node, 1 MiB between nodes
    deadline : seconds to wait for other trainers; None: for ever. In a study it is the study's

    ::

        Options(rate=1e-3, halve_every=6250)
    """

    rate: float | None = None
    halve_every: int = 0
    sizes: Mapping[str, Any] = field(default_factory=dict)
    optimizer: Callable[[Any], Any] | None = None
    scheduler: Callable[[Any], Any] | None = None
    threads: int = 1
    bf16: bool = False
    compress: str | None = None
    local: Mapping[str, Any] | None = None
    bucket: int | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not self.rate > 0:
            raise ConfigError(f"rate={self.rate!r} must be above 0")
        if self.halve_every < 0:
            raise ConfigError(f"halve_every={self.halve_every!r} must be 0 (never) or more")
        if self.threads < 1 or (self.bucket is not None and self.bucket < 1):
            raise ConfigError(
                f"threads={self.threads!r} and bucket={self.bucket!r} must be 1 or more"
            )
        if self.optimizer and self.rate is not None:
            raise ConfigError(f"rate={self.rate} is for our Adam: give the optimizer its own")
        if self.scheduler and self.halve_every:
            raise ConfigError(f"halve_every={self.halve_every} and a scheduler: give one of them")
        if self.compress and self.local is not None:
            raise ConfigError(
                f"compress={self.compress!r} is for gradients, which local={dict(self.local)!r} "
                "does not sum: give one of them"
            )

    def rate_at(self, step: int, first: float) -> float:
        """The learning rate of a gradient step, of which there were `step` before it."""
        return first * 0.5 ** (step // self.halve_every if self.halve_every else 0)


class Predictor(Protocol):
    """A trained model."""

    shapes: Shapes

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(B, outputs) float32 for (B, inputs) float32, both normalised."""
        ...


class Engine(Predictor, Protocol):
    """A model in training, on the ranks that train; `step` is collective."""

    def step(self, x: np.ndarray | None, y: np.ndarray | None) -> np.ndarray | None:
        """One gradient step on a batch: each sample's mean squared error before it, (B,).

        x : (B, inputs) float32, normalised; None on a trainer without a batch
        y : (B, outputs) float32, normalised

        None on all trainers, and no step, where any had no batch.
        """
        ...

    def finish(self) -> None:
        """No more steps: trainers that took steps of their own agree on weights (collective)."""
        ...

    def state(self) -> bytes:
        """All that the next steps depend on, of this trainer (collective)."""
        ...

    def restore(self, state: bytes) -> None:
        """Go on where `state` was taken, to the same bits where library and machine are the same.

        Warns where these differ, and raises `ConfigError` for a state of another model.
        """
        ...

    def export(self) -> bytes:
        """What `load` makes a `Predictor` of, in any process that can import the model's class."""
        ...

    def weights(self) -> list[np.ndarray]:
        """Copies of all that is trained."""
        ...

    def about(self) -> dict[str, Any]:
        """What bits depend on: library, version, threads, instruction set, options."""
        ...


def make(
    model: Any, shapes: Shapes, comm: MPI.Intracomm, seed: int = 0, options: Options | None = None
) -> Engine:
    """The engine of a model, which begins with the same weights on all trainers (collective).

    model : an object with `partial_fit` and `predict`, as scikit-learn's; a `torch.nn.Module`
        from (B, inputs) to (B, outputs); a function of `Shapes` (and of `options.sizes`) that gives
        either; or the name of such: of `hpckit.names.SURROGATE_MODELS`, or "package.module:name".
        An object is copied: the caller's is not trained
    comm : of the trainers
    seed : of the weights at the start, and of all that is drawn later

    Raises `ConfigError` on all trainers where the model cannot be had, or takes or gives other
    shapes. ::

        engine = make("mlp", Shapes(6, 0, {"u": (32, 32)}), MPI.COMM_SELF)
        engine.step(np.ones((64, 6), np.float32), np.ones((64, 1024), np.float32))
    """
    options = options or Options()
    with together(comm):
        built = _build(_found(model), shapes, seed, options)
        engine = pkgutil.resolve_name(_ENGINES[_library(built)])
    return engine(built, shapes, comm, seed, options)


def load(exported: bytes) -> Predictor:
    """The trained model of `Engine.export`.

    It is unpickled: load only what you would run. Raises `ConfigError` where its class, or the
    library that it needs, is missing.
    """
    library, content = pickle.loads(exported)
    try:
        return pkgutil.resolve_name(_ENGINES[library]).load(content)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"the model cannot be loaded ({error}): install {library}, and have the model's class "
            "in a module that can be imported, not in a script"
        ) from error


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and torch's global generators begin here."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (models of users may draw from it)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def random_state() -> tuple[Any, ...]:
    """Where these generators are."""
    torch = sys.modules.get("torch")
    own = torch and torch.get_rng_state()
    return random.getstate(), np.random.get_state(), own  # noqa: NPY002


def set_random_state(state: tuple[Any, ...]) -> None:
    """They go on from there."""
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    if "torch" in sys.modules:
        sys.modules["torch"].set_rng_state(state[2])


def check_same(saved: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Warn of what differs between the `about` of a state and that of the engine it goes to."""
    names = sorted({*saved, *mine})
    changes = [
        f"{name} was {saved.get(name)}, is {mine.get(name)}"
        for name in names
        if saved.get(name) != mine.get(name)
    ]
    if changes:
        get_logger(__name__).warning(
            "the model goes on elsewhere than it was saved, its last bits may differ: %s",
            "; ".join(changes),
        )


def check_outputs(given: tuple[int, ...], shapes: Shapes) -> None:
    """`ConfigError` unless a model gave (1, outputs) for the first sample."""
    if math.prod(given) != shapes.outputs or not given or given[0] != 1:
        raise ConfigError(
            f"the model gives {given} for an input of (1, {shapes.inputs}), where (1, "
            f"{shapes.outputs}) is needed: {shapes.outputs} numbers are in "
            + ", ".join(f"{name} {shape}" for name, shape in shapes.fields.items())
        )


def _found(model: Any) -> Any:
    """What a name stands for; anything else as it is."""
    if not isinstance(model, str):
        return model
    place = SURROGATE_MODELS.get(model, model)
    if ":" not in place:
        raise ConfigError(
            f"model {model!r} must be one of {', '.join(SURROGATE_MODELS)}, or "
            "'package.module:name'"
        )
    try:
        return pkgutil.resolve_name(place)
    except (ImportError, AttributeError, ValueError) as error:
        how = ": pip install 'hpckit[torch]'" if "torch" in str(error) else ""
        raise ConfigError(f"model {model!r} cannot be imported ({cause(error)}){how}") from error


def _build(model: Any, shapes: Shapes, seed: int, options: Options) -> Any:
    """The object to train: a copy of the user's, or what their function makes."""
    if _library(model):
        return copy.deepcopy(model)
    if not callable(model):
        raise ConfigError(
            f"model {model!r} must have partial_fit and predict, or be a torch.nn.Module, a "
            "function of shapes that gives either, or the name of one"
        )
    knew_torch = "torch" in sys.modules
    seed_everything(seed)
    built = _called(model, shapes, options)
    if not knew_torch and "torch" in sys.modules:  # imported within, so not seeded
        seed_everything(seed)
        built = _called(model, shapes, options)
    if not _library(built):
        raise ConfigError(
            f"the function {getattr(model, '__name__', model)!r} gives {type(built).__name__}, "
            "where an object with partial_fit and predict, or a torch.nn.Module, is needed"
        )
    return built


def _called(model: Any, shapes: Shapes, options: Options) -> Any:
    try:
        return model(shapes, **options.sizes)
    except TypeError as error:
        name = getattr(model, "__name__", model)
        sizes = ", ".join(f"{key}={value!r}" for key, value in options.sizes.items())
        raise ConfigError(f"model {name!r} cannot be made with ({sizes}): {error}") from error


def _library(model: Any) -> str:
    """The library of an object that can be trained; nothing for what cannot."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    trains = not isinstance(model, type) and hasattr(model, "partial_fit")
    return "scikit-learn" if trains and hasattr(model, "predict") else ""
