"""Reads PTX, the assembly that nvcc makes for GPUs, as nvcc lays it out: one statement a line."""

from __future__ import annotations

import re
from dataclasses import dataclass

_KERNEL = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)^\{(.*?)^\}", re.S | re.M)
_PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(\w+)(?:\[(\d+)\])?")
_SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.(\w+)\s+(\w+)(?:\[(\d+)\])?")
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)")
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        guard: predicate register that allows it, or None.
        negated: the guard allows it where it is false.
        parts: the operation, cut at its dots.
        operands: registers, numbers, ``[addresses]`` and ``{register lists}``.
    """

    guard: str | None
    negated: bool
    parts: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
        parameters: offset of each parameter.
        parameter_bytes: bytes of all parameters.
        shared: offset of each shared array.
        shared_bytes: bytes of all shared arrays.
        code: its instructions.
        labels: index of the instruction that each label names.
    """

    parameters: dict[str, int]
    parameter_bytes: int
    shared: dict[str, int]
    shared_bytes: int
    code: list[Instruction]
    labels: dict[str, int]


def bits(kind: str) -> int:
    """Bits of a PTX type such as ``u32`` or ``pred``."""
    return 1 if kind == "pred" else int(kind[1:])


def align(offset: int, alignment: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // alignment) * alignment


def parse(text: str) -> dict[str, Kernel]:
    """The kernels of a PTX module, by name."""
    text = re.sub(r"//.*", "", text)
    return {found[1]: _kernel(found[2], found[4]) for found in _KERNEL.finditer(text)}


def _kernel(header: str, body: str) -> Kernel:
    parameters, size = {}, 0
    for kind, name, count in _PARAMETER.findall(header):
        # Structures come as bytes; all of the matcher's are aligned to 8.
        width = 8 if count else bits(kind) // 8
        parameters[name] = size = align(size, width)
        size += int(count or width)
    shared, shared_size = {}, 0
    for alignment, kind, name, count in _SHARED.findall(body):
        shared[name] = shared_size = align(shared_size, int(alignment))
        shared_size += int(count or 1) * bits(kind) // 8
    code, labels = [], {}
    for statement in _statements(body):
        if statement.endswith(":"):
            labels[statement[:-1]] = len(code)
        else:
            found = _INSTRUCTION.fullmatch(statement)
            if found is None:
                raise ValueError(f"not a PTX instruction: {statement}")
            operands = tuple(_OPERAND.findall(found[4]))
            code.append(Instruction(found[2], bool(found[1]), tuple(found[3].split(".")), operands))
    return Kernel(parameters, size, shared, shared_size, code, labels)


def _statements(body: str) -> list[str]:
    """Labels and instructions; registers of an inner scope get names of their own."""
    result: list[str] = []
    scopes = 0
    local: list[str] = []
    for line in body.splitlines():
        statement = line.strip().rstrip(";").strip()
        if statement == "{":
            scopes += 1
        elif statement == "}":
            local = []
        elif statement.startswith(".reg") and scopes:
            local += re.findall(r"%\w+", statement)
        elif statement and not statement.startswith("."):
            for name in local:
                statement = re.sub(rf"{name}\b", f"{name}_scope{scopes}", statement)
            result.append(statement)
    return result
