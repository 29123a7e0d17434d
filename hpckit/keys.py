"""What a key of a case file may be, and how it says so: for programs and equations' sections.

::

    class Time(msgspec.Struct):
        steps: Annotated[Count, note("time steps to take")] = 100
        end: Annotated[float, note("end of the run, s", gt=0)] = 1.0
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

BESIDE = "beside the case file"  # how `InputFile` is told from other text
AS_WORD = "a word of the command line"  # how keys that need no flag are told from others


def note(text: str, **limits: Any) -> Any:
    """What a key means, and what it may be: `Annotated[int, note("time steps to take", ge=1)]`."""
    return msgspec.Meta(description=text, **limits)


def word(text: str) -> Any:
    """`note` of a key whose value may stand in the command line without its flag. ::

        task: Annotated[Literal["read", "write"], word("what to do")] = "read"

    Words that are no case fill such keys in the order in which they are declared.
    """
    return msgspec.Meta(description=text, extra={AS_WORD: True})


Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
# A case file may name a file relative to its own folder, or to that of the environment's
# HPCKIT_DATA; a flag, and a case that finds no such file there, mean the folder where the program
# was started.
InputFile = Annotated[str, msgspec.Meta(extra={BESIDE: True})]
