"""What a run of `hpckit.apps.kmedoids` is told: its case file's keys, with defaults and help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from hpckit.keys import Count, InputFile, Positive, note
from hpckit.names import INITS, METRICS, SEARCHES


class Generate(msgspec.Struct):
    """Points to cluster where there is no input: round clouds of standard deviation 1."""

    n: Annotated[Count, note("points")] = 5000
    dimension: Annotated[Count, note("coordinates of each")] = 16
    clouds: Annotated[Count, note("how many, of different size")] = 20
    spread: Annotated[Positive, note("standard deviation of the clouds' middles")] = 3.0
    seed: Annotated[int, note("other points", ge=0)] = 0
    per_rank: Annotated[
        bool, note("n is for one rank; as many distances for each of more (weak scaling)")
    ] = False


class Clara(msgspec.Struct):
    """FasterCLARA: the best of a few samples, each searched by itself."""

    samples: Annotated[Count, note("how many")] = 5
    sample_size: Annotated[Count | None, note("objects in each; by default 80 + 4 k")] = None


class Clarans(msgspec.Struct):
    """FasterCLARANS: random candidates against all medoids."""

    restarts: Annotated[Count, note("searches, each from its own random medoids")] = 2
    max_neighbors: Annotated[
        Count | None, note("failures in a row that end one; by default 2.5 % of n")
    ] = None


class OneBatch(msgspec.Struct):
    """OneBatchPAM: all objects are candidates, a weighted batch of objects judges them."""

    batch: Annotated[
        Count | None, note("objects in it; by default the larger of 100 ln(k n) and 50 k")
    ] = None


class DynMSC(msgspec.Struct):
    """DynMSC: the number of clusters from k down to k_min that has the best average medoid
    silhouette.
    """

    k_min: Annotated[int, note("fewest clusters", ge=2)] = 2


if TYPE_CHECKING:
    Method = Metric = Init = str
else:
    Method = Literal[SEARCHES]
    Metric = Literal[("precomputed", *METRICS)]
    Init = Literal[INITS]


class Config(msgspec.Struct):
    """The k objects with the least sum of distances from all objects to the nearest of them."""

    k: Annotated[Count, note("clusters")] = 10
    method: Annotated[Method, note("how to search; docs/kmedoids.md says which one when")] = (
        "fasterpam"
    )
    metric: Annotated[
        Metric, note("between points; precomputed: the input holds the distances")
    ] = "euclidean"
    input: Annotated[
        InputFile, note("points or distances by rows: .npy, .npz, HDF5, .csv; none: generated")
    ] = ""
    variable: Annotated[str, note("which array in the input; none: the only one")] = ""
    columns: Annotated[
        tuple[int, int] | None,
        note("the first column of a text table to use, and the one after the last; none: all"),
    ] = None
    init: Annotated[
        Init | None,
        note("first medoids; by default what suits the method"),
    ] = None
    block: Annotated[
        Count | None, note("candidates judged together, by default 64; 1: FasterPAM as published")
    ] = None
    max_iter: Annotated[
        Count | None, note("most passes over all candidates; pam: swaps. None: to the end")
    ] = None
    seed: Annotated[int, note("of all that is random in the search", ge=0)] = 0
    threads: Annotated[Count, note("threads per rank", le=1024)] = 1
    memory: Annotated[
        str,
        note(
            "where distances are: matrix (stored), free (computed when needed), an HDF5 file, or "
            "auto"
        ),
    ] = "auto"
    output: Annotated[str, note("folder for results, pictures and checkpoints")] = (
        "results/kmedoids"
    )
    pictures: Annotated[bool, note("draw the results")] = True
    checkpoint_every: Annotated[
        float, note("seconds between checkpoints; 0: only when asked to stop", ge=0)
    ] = 0.0
    max_seconds: Annotated[
        float, note("checkpoint and stop after this time; 0: no limit", ge=0)
    ] = 0.0
    resume: Annotated[bool, note("go on from the last checkpoint, if there is one")] = False
    generate: Generate = msgspec.field(default_factory=Generate)
    clara: Clara = msgspec.field(default_factory=Clara)
    clarans: Clarans = msgspec.field(default_factory=Clarans)
    onebatch: OneBatch = msgspec.field(default_factory=OneBatch)
    dynmsc: DynMSC = msgspec.field(default_factory=DynMSC)
