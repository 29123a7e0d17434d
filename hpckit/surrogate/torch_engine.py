"""Gradient steps by torch: one module, on one trainer or on several with the same weights."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mpi4py import MPI

from hpckit.collectives import Allreduce
from hpckit.errors import ConfigError, HpckitError, agree, same, together
from hpckit.lossy import LocalUpdates
from hpckit.surrogate.engine import (
    Options,
    Shapes,
    check_outputs,
    check_same,
    random_state,
    seed_everything,
    set_random_state,
)
from hpckit.surrogate.torch_gradients import Gradients, check_parameters, in_rank_order

_LOCAL = (torch.float32, torch.float64)  # what can be averaged


class TorchPredictor:
    """A trained module."""

    def __init__(self, module: torch.nn.Module, shapes: Shapes, bf16: bool) -> None:
        self.module = module
        self.shapes = shapes
        self._bf16 = bf16

    def predict(self, x: np.ndarray) -> np.ndarray:
        self.module.eval()
        try:
            with torch.inference_mode():
                return self._forward(torch.from_numpy(x)).numpy()
        finally:
            self.module.train()

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            y = self.module(x)
        return y.float().reshape(len(x), -1)


class TorchEngine(TorchPredictor):
    """Each trainer's module sees its own batch; all take the same step by the mean gradient.

    Buffers of the module, such as the means of a batch norm, remain each trainer's own.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        shapes: Shapes,
        comm: MPI.Intracomm,
        seed: int,
        options: Options,
    ) -> None:
        super().__init__(module, shapes, options.bf16)
        self._comm = comm
        self._options = options
        torch.set_num_threads(options.threads)
        self._parameters = [each for each in module.parameters() if each.requires_grad]
        with together(comm):
            if not self._parameters:
                raise ConfigError(f"{type(module).__name__} has no parameters to train")
            x = np.zeros((1, shapes.inputs), np.float32)
            check_outputs(self.predict(x).shape, shapes)
        self._agree(seed)
        self._gradients: Gradients | None = None
        self._outer: LocalUpdates | None = None
        if comm.size > 1:
            self._share()
        self._verdict = _Verdict(comm, options.deadline)
        with together(comm):
            self._optimizer = (options.optimizer or self._adam)(self._parameters)
            self._scheduler = options.scheduler and options.scheduler(self._optimizer)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._steps = 0
        words = np.random.SeedSequence([seed, comm.rank]).generate_state(1)
        seed_everything(int(words[0]))
        module.train()

    @classmethod
    def load(cls, content: bytes) -> TorchPredictor:
        """The predictor of `export`'s content."""
        return TorchPredictor(*_unpacked(content))

    def step(self, x: np.ndarray | None, y: np.ndarray | None) -> np.ndarray | None:
        losses = error = None
        if self._gradients:
            self._gradients.begin()
        else:
            self._optimizer.zero_grad()
        if x is not None and y is not None:
            try:
                losses = self._backward(torch.from_numpy(x), torch.from_numpy(y))
            except Exception as caught:
                error = caught  # the others are told below, so that none waits for ever
        if self._gradients:
            self._gradients.wait()
        mean = self._verdict(self._steps, losses, error)
        if mean is None:
            return None
        self._take(mean)
        return losses

    def _backward(self, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
        losses = (self._forward(x) - y).square().mean(1)
        trainers = self._comm.size if self._gradients else 1
        (losses.mean() / trainers).backward()
        return losses.detach().numpy()

    def _take(self, mean: float) -> None:
        if not self._scheduler:
            for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = self._options.rate_at(self._steps, rate)
        self._optimizer.step()
        if self._scheduler:
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
            needs = (mean,) if isinstance(self._scheduler, plateau) else ()
            self._scheduler.step(*needs)
        if self._outer:
            self._outer.step()
        self._steps += 1

    def finish(self) -> None:
        if self._outer:
            self._outer.finish()

    def state(self) -> bytes:
        return _packed(
            {
                "about": self.about(),
                "steps": self._steps,
                "module": self.module.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scheduler": self._scheduler and self._scheduler.state_dict(),
                "outer": self._outer and self._outer.state(),
                "gradients": self._gradients and self._gradients.state(),
                "random": random_state(),
            }
        )

    def restore(self, state: bytes) -> None:
        saved = _unpacked(state)
        check_same(saved["about"], self.about())
        try:
            self.module.load_state_dict(saved["module"])
            self._optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"the state is of another model or optimizer: {error}") from error
        if self._scheduler:
            self._scheduler.load_state_dict(saved["scheduler"])
        if self._outer:
            self._outer.restore(saved["outer"])
        if self._gradients:
            self._gradients.restore(saved["gradients"])
        self._steps = saved["steps"]
        set_random_state(saved["random"])

    def export(self) -> bytes:
        content = _packed((self.module, self.shapes, self._options.bf16))
        return pickle.dumps(("torch", content))

    def weights(self) -> list[np.ndarray]:
        return [each.detach().numpy().copy() for each in self._parameters]

    def about(self) -> dict[str, Any]:
        optimizer, options = self._optimizer, self._options
        return {
            "library": f"torch {torch.__version__}",
            "threads": torch.get_num_threads(),
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "trainers": self._comm.size,
            "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}",
            "bf16": options.bf16,
            "halve_every": options.halve_every,
        }

    def _agree(self, seed: int) -> None:
        """All trainers begin with trainer 0's weights (collective)."""
        parameters = [(tuple(each.shape), str(each.dtype)) for each in self.module.parameters()]
        options = self._options
        same(
            self._comm,
            "parameters of the model, seed and options",
            (parameters, seed, options.rate, options.halve_every, options.bf16, options.bucket),
        )
        own = _packed(self.module.state_dict()) if self._comm.rank == 0 else b""
        self.module.load_state_dict(_unpacked(self._comm.bcast(own)))

    def _share(self) -> None:
        """What trainers have in common: sums of gradients, or parameters now and then."""
        options = self._options
        if options.local is not None:
            self._outer = _local_updates(self._comm, self._parameters, options)
        else:
            self._gradients = Gradients(
                self._comm, self._parameters, options.bucket, options.compress, options.deadline
            )

    def _adam(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        fused = all(each.is_floating_point() for each in parameters)  # not for complex ones
        return torch.optim.Adam(parameters, lr=self._options.rate or 1e-3, fused=fused)


class _Verdict:
    """Whether a gradient step is taken: all trainers must have a batch, and none may have failed.

    Constructing and calling are collective.
    """

    def __init__(self, comm: MPI.Intracomm, deadline: float | None) -> None:
        self._comm = comm
        self._numbers = np.zeros(3)  # batches, failures, losses
        how = in_rank_order(comm)
        self._plan = Allreduce(comm, self._numbers, algorithm=how, deadline=deadline)

    def __call__(
        self, step: int, losses: np.ndarray | None, error: Exception | None
    ) -> float | None:
        """The mean loss over all trainers, or None; raises on all what any has met."""
        loss = 0.0 if losses is None else losses.mean()
        self._numbers[:] = losses is not None, error is not None, loss
        self._plan()
        batches, failures, loss = self._numbers.tolist()
        if failures:
            agree(self._comm, error)
        if batches < self._comm.size:
            return None
        if not np.isfinite(loss):
            raise HpckitError(f"the loss is not finite at gradient step {step}: take a lower rate")
        return loss / self._comm.size


def _local_updates(
    comm: MPI.Intracomm, parameters: Sequence[torch.nn.Parameter], options: Options
) -> LocalUpdates:
    """With the parameters as views of one array (collective)."""
    with together(comm):
        check_parameters(parameters)
        if len(dtypes := {each.dtype for each in parameters}) > 1 or dtypes - {*_LOCAL}:
            raise ConfigError(f"local updates take parameters of one real dtype, not {dtypes}")
    flat = torch.cat([each.detach().reshape(-1) for each in parameters])
    at = 0
    for each in parameters:
        each.data = flat[at : at + each.numel()].view(each.shape)
        at += each.numel()
    try:
        keywords: dict[str, Any] = {"algorithm": in_rank_order(comm), **(options.local or {})}
        return LocalUpdates(comm, flat.numpy(), deadline=options.deadline, **keywords)
    except TypeError as error:
        raise ConfigError(f"local={options.local!r} are no keywords of LocalUpdates") from error


def _packed(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _unpacked(packed: bytes) -> Any:
    return torch.load(io.BytesIO(packed), weights_only=False)
