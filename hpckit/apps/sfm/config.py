"""What a run of `hpckit.apps.sfm` is told: its case file's keys, with defaults and help."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from hpckit.keys import Count, InputFile, Positive, note, word

Task = Literal["info", "convert", "ba", "rotations", "positions", "triangulate", "map", "plot"]
Fixed = Literal["focal", "principal_point", "distortion", "intrinsics", "poses", "points"]


class Generate(msgspec.Struct):
    """A scene to work on where there is no input: its truth is known."""

    scene: Annotated[
        Literal["loop", "city", "turntable"],
        note("a street that closes; streets that cross; around an object"),
    ] = "loop"
    images: Annotated[Count, note("of a loop, at least 24, or of a turntable")] = 100
    points_per_image: Annotated[Positive, note("each is seen by 8 images, on average")] = 200.0
    blocks: Annotated[tuple[Count, Count], note("of a city, in both directions, 60 m each")] = (
        3,
        2,
    )
    noise: Annotated[float, note("standard deviation of what is observed, pixels", ge=0)] = 0.6
    drift: Annotated[float, note("how far the start is bent, in parts of its extent", ge=0)] = 0.005
    model: Annotated[str, note("camera model, as COLMAP calls it, or BAL")] = "BAL"
    cameras: Annotated[Count | None, note("used in turn; none: one for each image")] = None
    seed: Annotated[int, note("another scene", ge=0)] = 0
    per_rank: Annotated[bool, note("as many images for each rank (weak scaling)")] = False


class Rotations(msgspec.Struct):
    """Rotation averaging, and the pairs that are generated for it where there is no input."""

    loss: Annotated[
        Literal["robust", "l1", "l2"], note("what makes wrong pairs count less; l2: nothing")
    ] = "robust"
    noise: Annotated[float, note("of generated pairs, degrees", ge=0)] = 1.0
    outliers: Annotated[float, note("share of generated pairs that are wrong", ge=0, le=1)] = 0.1


class Map(msgspec.Struct):
    """From a database to models."""

    min_images: Annotated[Count, note("smaller models are left out")] = 3
    max_tracks: Annotated[Count | None, note("most points to begin with; none: all")] = None


class Size(msgspec.Struct):
    """How large a dry run shall think that the problem is."""

    images: Annotated[int, note("0: as large as the input, or what is generated", ge=0)] = 0
    points: Annotated[int, note("of all ranks", ge=0)] = 0
    observations: Annotated[int, note("of all ranks", ge=0)] = 0


class Config(msgspec.Struct):
    """Structure from motion: bundle adjustment, and the stages before it."""

    task: Annotated[
        Task,
        word(
            "info: what is in a file; convert: to another format; ba: bundle adjustment; "
            "rotations, positions, triangulate: one stage; map: from a database to models; plot"
        ),
    ] = "ba"
    input: Annotated[
        InputFile,
        word(
            "a BAL, Bundler or libmv file, a COLMAP folder; map: a COLMAP database; rotations: one "
            "or a pose graph (g2o, TORO); none: generated"
        ),
    ] = ""
    target: Annotated[
        str, word("where to write the model: a folder, .txt, .out, .ply, .vtkhdf; none: output")
    ] = ""
    format: Annotated[
        Literal["bal", "bundler", "colmap", "colmap-text", "ply", "vtkhdf"] | None,
        note("of what is written; by default what the target's name says"),
    ] = None
    trust: Annotated[
        Literal["tracks", "images"],
        note("what to believe where a COLMAP model contradicts itself"),
    ] = "tracks"
    behind: Annotated[
        Literal["keep", "zero", "drop"] | None,
        note("points behind their camera: their residual counts, is zero, or they are left out"),
    ] = None
    solver: Annotated[
        str,
        note("of the reduced system: auto, dense, sparse, two_level, pcg, petsc; see docs/sfm.md"),
    ] = "auto"
    loss: Annotated[
        Literal["none", "huber", "cauchy", "soft_l1"], note("what makes outliers count less")
    ] = "none"
    loss_scale: Annotated[Positive, note("pixels at which it begins to do so")] = 1.0
    fix: Annotated[
        tuple[Fixed, ...],
        note("what stays as it is; principal points do so by default, except in BAL"),
    ] = ("principal_point",)
    max_iterations: Annotated[int, note("of Levenberg-Marquardt", ge=0)] = 100
    ftol: Annotated[
        float, note("end when an iteration lowers the cost by less than this part", ge=0)
    ] = 1e-6
    gtol: Annotated[float, note("end when no entry of the gradient is larger", ge=0)] = 0.0
    radius: Annotated[Positive, note("of the first trust region")] = 1e4
    reproducible: Annotated[bool, note("the same bits on any number of ranks")] = False
    seed: Annotated[int, note("of all that is random in the task", ge=0)] = 0
    output: Annotated[str, note("folder for results, pictures and checkpoints")] = "results/sfm"
    pictures: Annotated[bool, note("draw the results")] = True
    checkpoint_every: Annotated[
        Count, note("iterations between checkpoints of ba; one more when asked to stop")
    ] = 10
    max_seconds: Annotated[
        float, note("checkpoint and stop after this time; 0: no limit", ge=0)
    ] = 0.0
    resume: Annotated[bool, note("go on from the last checkpoint, if there is one")] = False
    generate: Generate = msgspec.field(default_factory=Generate)
    rotations: Rotations = msgspec.field(default_factory=Rotations)
    map: Map = msgspec.field(default_factory=Map)
    size: Size = msgspec.field(default_factory=Size)
