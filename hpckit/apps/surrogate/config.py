"""What a run of `hpckit.apps.surrogate` is told: its case file's keys, with defaults and help."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from hpckit.keys import Count, InputFile, Positive, note, word

Task = Literal["run", "record", "offline", "compare", "predict", "report"]


class Buffer(msgspec.Struct):
    """Where samples wait until they are drawn."""

    kind: Annotated[
        Literal["reservoir", "firo", "fifo"],
        note("reservoir: drawn again and again; firo: once, at random; fifo: once, in order"),
    ] = "reservoir"
    capacity: Annotated[Count, note("samples that it holds, for each trainer")] = 6000
    threshold: Annotated[
        int, note("samples that must be there before the first is drawn", ge=0)
    ] = 1000


class Schedule(msgspec.Struct):
    """How many new steps of simulations come for each gradient step."""

    kind: Annotated[
        Literal["lockstep", "free"],
        note("lockstep: the same bits on any number of solver ranks; free: what is there"),
    ] = "lockstep"
    samples: Annotated[Count, note("new steps per gradient step and trainer, in lockstep")] = 16
    reuse: Annotated[
        Positive | None, note("free: how often a sample is drawn on average at most; none: any")
    ] = None


class Engine(msgspec.Struct):
    """How gradient steps are taken; from threads on, with torch only."""

    rate: Annotated[Positive | None, note("learning rate; none: the model's own")] = None
    halve_every: Annotated[int, note("gradient steps until the rate is halved; 0: never", ge=0)] = 0
    threads: Annotated[Count, note("of each trainer")] = 1
    bf16: Annotated[bool, note("compute in bfloat16 where that does no harm")] = False
    compress: Annotated[
        str | None, note("sums of gradients in fewer bytes: bf16, powersgd:4, layerwise:4, ...")
    ] = None
    local: Annotated[
        Count | None, note("gradient steps of each trainer between averages; none: sum gradients")
    ] = None


class Validation(msgspec.Struct):
    """Simulations that are never trained on."""

    simulations: Annotated[Count, note("their number")] = 50
    every: Annotated[Count, note("gradient steps between two looks at them")] = 500


class Offline(msgspec.Struct):
    """Training from a tape."""

    simulations: Annotated[Count | None, note("of the tape, the first ones; none: all of them")] = (
        None
    )


class Predict(msgspec.Struct):
    """What to predict with a surrogate that was trained."""

    parameters: Annotated[dict[str, float], note("by name; the others: the middle of the box")] = (
        msgspec.field(default_factory=dict)
    )
    times: Annotated[tuple[float, ...], note("none: some of those that it was trained on")] = ()
    history: Annotated[
        InputFile, note("known fields by name, .npz, for views that go on from such")
    ] = ""


class Speeds(msgspec.Struct):
    """What a dry run reckons with; by default what the last run in `output` measured."""

    step: Annotated[Positive | None, note("seconds of a group for a step of a simulation")] = None
    gradient_step: Annotated[Positive | None, note("seconds of a trainer for a gradient step")] = (
        None
    )
    receive: Annotated[Positive | None, note("seconds of a trainer for a step that comes")] = None


class Config(msgspec.Struct):
    """Networks that learn what a solver computes, while it computes it."""

    task: Annotated[
        Task,
        word(
            "run: train while solvers compute; record: only solve, onto a tape; offline: train "
            "from a tape; compare: run and offline, equally long; predict, report: from a folder "
            "of results"
        ),
    ] = "run"
    output: Annotated[str, word("folder for results, pictures and checkpoints")] = (
        "results/surrogate"
    )
    solver: Annotated[
        str, note("one of hpckit.surrogate.equations, or your own: package.module:name")
    ] = "heat"
    solver_options: Annotated[dict[str, Any], note("what it is made with")] = msgspec.field(
        default_factory=dict
    )
    model: Annotated[
        str, note("mlp (scikit-learn); fc, fno, deeponet, conv (torch); or package.module:name")
    ] = "mlp"
    model_options: Annotated[dict[str, Any], note("what it is made with, such as its width")] = (
        msgspec.field(default_factory=dict)
    )
    view: Annotated[
        str, note("what a sample is: direct, initial, pairs:DISTANCE, window:LENGTH")
    ] = "direct"
    sampler: Annotated[
        Literal["uniform", "sobol", "breed"],
        note("which parameters are solved next; breed: where the loss is large"),
    ] = "uniform"
    trainers: Annotated[Count, note("ranks that train; the others solve")] = 1
    group: Annotated[Count, note("ranks that solve a simulation together")] = 1
    lanes: Annotated[
        Count, note("simulations that are solved at the same time: bits depend on it")
    ] = 8
    steps: Annotated[Count, note("gradient steps")] = 4000
    batch: Annotated[Count, note("samples of a gradient step, for each trainer")] = 64
    simulations: Annotated[
        Count | None, note("to solve; none: as many as the gradient steps take (record: 100)")
    ] = None
    seed: Annotated[int, note("of all that is random", ge=0)] = 0
    tape: Annotated[
        str, note("folder of recorded simulations; record, offline and compare: output/tape")
    ] = ""
    pictures: Annotated[bool, note("draw the results")] = True
    checkpoint_every: Annotated[
        Positive, note("seconds between checkpoints; one more when asked to stop")
    ] = 600.0
    max_seconds: Annotated[
        float, note("checkpoint and stop after this time; 0: no limit", ge=0)
    ] = 0.0
    deadline: Annotated[
        Positive, note("seconds that one rank waits for another, before it says which is late")
    ] = 600.0
    resume: Annotated[bool, note("go on from the last checkpoint, if there is one")] = False
    buffer: Buffer = msgspec.field(default_factory=Buffer)
    schedule: Schedule = msgspec.field(default_factory=Schedule)
    engine: Engine = msgspec.field(default_factory=Engine)
    validation: Validation = msgspec.field(default_factory=Validation)
    offline: Offline = msgspec.field(default_factory=Offline)
    predict: Predict = msgspec.field(default_factory=Predict)
    speeds: Speeds = msgspec.field(default_factory=Speeds)
