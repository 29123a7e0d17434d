"""The names by which users choose, for case files, `--help` and the rooms that make what they name.

They are read without MPI and NumPy, so that programs can say what may be chosen where neither is
wanted. Where a name stands for a class, its line says where that is, and the room's registry is
what `load` makes of the lines: a new method or algorithm is its file and a line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Literal

HALO_METHODS = {
    "datatype": "hpckit.halo.datatype:Datatype",
    "packed": "hpckit.halo.packed:Packed",
    "neighbor": "hpckit.halo.neighbor:Neighbor",
    "shared": "hpckit.halo.shared:Shared",
    "direct": "hpckit.halo.direct:Direct",
}
# Of fields on a device.
DEVICE_HALO_METHODS = {
    "staged": "hpckit.halo.staged:Staged",
    "peer": "hpckit.halo.peer:Peer",
    "oneshot": "hpckit.halo.oneshot:OneShot",
    "device": "hpckit.halo.device:Device",
}
ALGORITHMS = {
    "native": "hpckit.collectives.algorithms.native:Native",
    "ring": "hpckit.collectives.algorithms.ring:Ring",
    "star": "hpckit.collectives.algorithms.star:Star",
    "oneshot": "hpckit.collectives.algorithms.oneshot:OneShot",
    "twoshot": "hpckit.collectives.algorithms.twoshot:TwoShot",
    "recursive_doubling": "hpckit.collectives.algorithms.recursive_doubling:RecursiveDoubling",
    "rabenseifner": "hpckit.collectives.algorithms.rabenseifner:Rabenseifner",
    "tree": "hpckit.collectives.algorithms.tree:Tree",
    "hierarchical": "hpckit.collectives.algorithms.hierarchical:Hierarchical",
    "shared": "hpckit.collectives.algorithms.shared:Shared",
}
DEVICE_ALGORITHMS = {  # for arrays on devices, beside all of those
    "peer": "hpckit.collectives.algorithms.peer:Peer",
    "pipelined": "hpckit.collectives.algorithms.pipelined:Pipelined",
}
# Of devices, in the order in which they are asked whose an address is: a stand-in knows at once.
DEVICES = {
    "stand-in": "hpckit.comm.stand_in:StandIn",
    "cuda": "hpckit.comm.cuda:Cuda",
}
# Of messages with derived datatypes: who packs them (`hpckit.accelerate`).
ACCELERATE_METHODS = ("auto", "packed", "datatype")
# Of k-medoids: functions of `hpckit.cluster`; metrics that hpckit computes itself, whose
# definitions are in `hpckit.cluster.metrics`; the first medoids.
SEARCHES = ("fasterpam", "pam", "alternate", "clara", "clarans", "onebatch", "fastermsc", "dynmsc")
METRICS = ("euclidean", "sqeuclidean", "cosine", "manhattan", "chebyshev", "hamming")
INITS = ("random", "first", "build", "lab", "heuristic", "k-medoids++")
# Of surrogates: functions that make a model of its shapes, all but the first by torch.
SURROGATE_MODELS = {
    "mlp": "hpckit.surrogate.sklearn_engine:mlp",
    "fc": "hpckit.surrogate.models.fc:fc",
    "fno": "hpckit.surrogate.models.fno:fno",
    "deeponet": "hpckit.surrogate.models.deeponet:deeponet",
    "conv": "hpckit.surrogate.models.conv:conv",
}

Layout = Literal["mpi", "files", "h5py"]
"""how snapshots are written; the classes are `hpckit.io.outputs.OUTPUTS`"""


def load(places: Mapping[str, str]) -> dict[str, Any]:
    """What the names stand for, imported; each has its name as its `name`.

    Raises `ImportError` where one calls itself otherwise. ::

        load(HALO_METHODS)["packed"]  # <class 'hpckit.halo.packed.Packed'>
    """
    found = {name: _at(place) for name, place in places.items()}
    for name, each in found.items():
        if each.name != name:
            raise ImportError(
                f"{places[name]} calls itself {each.name!r}, but hpckit.names has it as {name!r}: "
                "give both the same name"
            )
    return found


def _at(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
