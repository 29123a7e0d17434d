"""PTX as C, line by line, so that what is shipped runs where there is no GPU.

Of the instructions, those that hpckit's kernels use; any other is an error. Registers are variables
of C, labels are labels, and a kernel is a loop over all threads. Addresses are translated as for
the stand-in (`hpckit.ptx.conventions`).
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

from hpckit.ptx.conventions import INSIDE, SPACE, SPACE_BITS, THREADS

HEAD = f"""
#include <math.h>
#include <stdint.h>
#include <string.h>
typedef uint8_t b8, u8, pred; typedef int8_t s8;
typedef uint16_t b16, u16; typedef int16_t s16;
typedef uint32_t b32, u32; typedef int32_t s32;
typedef uint64_t b64, u64; typedef int64_t s64;
typedef float f32; typedef double f64;
static f32 float_of(u32 bits) {{ f32 x; memcpy(&x, &bits, 4); return x; }}
static f64 double_of(u64 bits) {{ f64 x; memcpy(&x, &bits, 8); return x; }}
#define AT(T, a) ((T *)((a) >> {SPACE_BITS} == {SPACE >> SPACE_BITS} ? (a) + {INSIDE}ULL : (a)))
"""
INFIX = {"add": "+", "sub": "-", "and": "&", "or": "|", "xor": "^", "div": "/"}
COMPARED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
C_TYPES = {"u64": ctypes.c_int64, "f64": ctypes.c_double, "f32": ctypes.c_float}
PARAMETER = re.compile(r"\.param \.(\w+) (\w+)")
ENTRY = re.compile(r"\.visible \.entry (\w+)\((.*?)\)\s*\{(.*?)\n\}", re.DOTALL)


def kernels(text: str, folder: Path) -> SimpleNamespace:
    """Functions of the number of blocks and the kernel's arguments, as its twin is."""
    entries = [
        (name, PARAMETER.findall(listed), body) for name, listed, body in ENTRY.findall(text)
    ]
    source, library = folder / "kernels.c", folder / "kernels.so"
    source.write_text(HEAD + "".join(_function(*entry) for entry in entries))
    options = ["-O1", "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing", "-w", "-fPIC"]
    subprocess.run(["cc", *options, "-shared", source, "-o", library, "-lm"], check=True)
    loaded, made = ctypes.CDLL(str(library)), SimpleNamespace()
    for name, parameters, _ in entries:
        function = loaded[name]
        function.argtypes = [ctypes.c_int64, *(C_TYPES[kind] for kind, _ in parameters)]
        function.restype = None
        setattr(made, name, function)
    return made


def _function(name: str, parameters: list[tuple[str, str]], body: str) -> str:
    declared = "".join(f", {kind} {parameter}" for kind, parameter in parameters)
    passed = "".join(f", {parameter}" for _, parameter in parameters)
    lines = "\n".join(_line(line.strip().rstrip(";")) for line in body.splitlines())
    return f"""
static void {name}_thread(u32 ctaid, u32 tid{declared}) {{
{lines}
}}
void {name}(s64 blocks{declared}) {{
  for (u32 block = 0; block < blocks; block++)
    for (u32 lane = 0; lane < {THREADS}; lane++) {name}_thread(block, lane{passed});
}}
"""


def _line(line: str) -> str:
    """A declaration, a label, or an instruction that a condition may stand before."""
    if not line or line.startswith(("//", ".pragma")):
        return ""
    if declared := re.fullmatch(r"\.reg \.(\w+)\s+%(\w+)<(\d+)>", line):
        kind, prefix, count = declared.groups()
        return f"{kind} {', '.join(f'_{prefix}{i}' for i in range(int(count)))};"
    if line.endswith(":"):
        return f"{line[1:]} ;"
    condition = ""
    if line.startswith("@"):
        condition, line = line[1:].split(None, 1)
        condition = f"if ({condition.replace('%', '_')}) "
    operation, _, operands = line.partition(" ")
    words = re.findall(r"\{.*?\}|\[.*?\]|[^\s,]+", operands)
    return f"{condition}{{ {_instruction(*operation.strip().split('.'), words=words)}; }}"


def _instruction(verb: str, *kinds: str, words: list[str]) -> str:
    """C of one: `verb.kinds words`, what it writes first."""
    kind = kinds[-1] if kinds else ""
    target, values = words[0].replace("%", "_") if words else "", words[1:]

    def value(i: int, kind: str = kind) -> str:
        return _value(values[i], kind)

    match verb, *kinds:
        case ["ret"]:
            return "return"
        case ["bra", *_]:
            return f"goto {words[0].replace('$', '')}"
        case ["ld", "param", _]:
            return f"{target} = {values[0].strip('[]')}"
        case ["ld", "global", *vector, _]:
            return "; ".join(
                f"{name} = AT({kind}, {_address(values[0])})[{i}]"
                for i, name in enumerate(_names(words[0], vector))
            )
        case ["st", "global", *vector, _]:
            return "; ".join(
                f"AT({kind}, {_address(words[0])})[{i}] = {name}"
                for i, name in enumerate(_names(values[0], vector))
            )
        case ["mov", _]:
            return f"{target} = {value(0)}"
        case ["cvt", to, of]:
            return f"{target} = ({to}){value(0, of)}"
        case ["neg" | "not", _]:
            sign = {"neg": "-", "not": "!" if kind == "pred" else "~"}[verb]
            return f"{target} = {sign}{value(0)}"
        case [("add" | "sub" | "and" | "or" | "xor" | "div"), *rounded, _] if rounded in (
            [],
            ["rn"],
        ):
            return f"{target} = {value(0)} {INFIX[verb]} {value(1)}"
        case ["mul", "lo" | "rn", _]:
            return f"{target} = {value(0)} * {value(1)}"
        case ["mul", "wide", _]:
            wide = {"s32": "s64", "u32": "u64"}[kind]
            return f"{target} = ({wide}){value(0)} * ({wide}){value(1)}"
        case ["shl" | "shr", _]:
            bits = int(kind[1:])
            shifted = f"{value(0)} {'<<' if verb == 'shl' else '>>'} {value(1, 'u32')}"
            return f"{target} = {value(1, 'u32')} < {bits} ? {shifted} : {_filling(value(0), kind)}"
        case ["min" | "max", _]:
            sign = "<" if verb == "min" else ">"
            return f"{target} = {value(0)} {sign} {value(1)} ? {value(0)} : {value(1)}"
        case ["setp", "num", _]:
            return f"{target} = {value(0)} == {value(0)} && {value(1)} == {value(1)}"
        case ["setp", compared, _]:
            return f"{target} = {value(0)} {COMPARED[compared]} {value(1)}"
        case ["selp", _]:
            return f"{target} = {value(2, 'pred')} ? {value(0)} : {value(1)}"
        case ["bfi", "b64"]:
            mask = f"((1ULL << {value(3)}) - 1 << {value(2)})"
            return f"{target} = {value(1)} & ~{mask} | {value(0)} << {value(2)} & {mask}"
    raise NotImplementedError(".".join([verb, *kinds]))


def _value(word: str, kind: str) -> str:
    """A register or a number as that type."""
    special = {"%ctaid.x": "ctaid", "%tid.x": "tid"}
    if word.startswith("%"):
        return f"(({kind}){special.get(word, word.replace('%', '_'))})"
    if word.startswith("0d"):
        return f"double_of(0x{word[2:]}ULL)"
    if word.startswith("0f"):
        return f"float_of(0x{word[2:]})"
    return f"(({kind}){int(word) % (1 << 64)}ULL)"


def _address(word: str) -> str:
    base, _, offset = word.strip("[]").replace("%", "_").partition("+")
    return f"{base} + {int(offset or 0) % (1 << 64)}ULL"


def _names(word: str, vector: list[str]) -> list[str]:
    names = re.findall(r"_\w+", word.replace("%", "_"))
    assert len(names) == {(): 1, ("v2",): 2}[tuple(vector)]
    return names


def _filling(value: str, kind: str) -> str:
    """What is left of a value that is shifted by all its bits and more."""
    return f"({value} < 0 ? -1 : 0)" if kind.startswith("s") else "0"
