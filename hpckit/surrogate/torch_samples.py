"""Batches for a training loop of the user's, in torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from hpckit.errors import ConfigError
from hpckit.surrogate.samples import Samples

_ARRAYS = ("buffer", "view")  # what these hold goes into files as tensors


class TorchSamples(IterableDataset):
    """Batches (x, y) of float32 tensors, in physical units; made by `Role.dataset`.

    ::

        loader = torch.utils.data.DataLoader(role.dataset(), batch_size=None)

    `state_dict` and `load_state_dict` are as those of modules: a loop goes on where it was.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if get_worker_info() is not None:
            raise ConfigError("samples come by MPI, to this process: DataLoader with num_workers=0")
        for x, y in self._samples:
            yield torch.from_numpy(x), torch.from_numpy(y)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on from here, for `torch.save`."""
        state = self._samples.state()
        return state | {part: _each(torch.from_numpy, state[part]) for part in _ARRAYS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; before the first batch."""
        arrays = {part: _each(torch.Tensor.numpy, state[part]) for part in _ARRAYS}
        self._samples.restore({**state, **arrays})


def _each(convert: Callable[[Any], Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: convert(array) for name, array in arrays.items()}
