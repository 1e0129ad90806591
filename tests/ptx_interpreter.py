"""Runs PTX on small inputs: the integer instructions that the matcher's kernels use.

A block's warps take turns at random; within a warp the lanes at the lowest instruction go first.
Checked on the way: addresses lie in a buffer and are aligned, memory is written before it
is read, warp-wide operations meet just the lanes they name, barriers meet every thread. An unknown
instruction is an error.
"""

from __future__ import annotations

import re

import numpy as np
from ptx_parser import Instruction, Kernel, align, bits

WARP = 32
_TURN = 200  # instructions of a warp before another may go on, at most
_GUARD = 256  # unallocated bytes between buffers
_ADDRESS = re.compile(r"\[([^+\]]+)(?:\+(-?\d+))?\]")
_COMPARE = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
}
_ARITHMETIC = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "min": np.minimum,
    "max": np.maximum,
    "div": np.floor_divide,
    "rem": np.remainder,
}


class PtxError(Exception):
    """The code did what a GPU must not do, or what this interpreter does not know."""


class Memory:
    """Bytes, and which of them are allocated and written."""

    def __init__(self, size: int = 0) -> None:
        self.bytes = np.zeros(size, np.uint8)
        self.allocated = np.ones(size, bool)
        self.written = np.zeros(size, bool)

    def allocate(self, content: np.ndarray, written: bool = True) -> int:
        """Add a buffer; returns its address."""
        size = content.nbytes
        address = align(len(self.bytes) + _GUARD, _GUARD)
        padding = np.zeros(address - len(self.bytes), np.uint8)
        raw = np.frombuffer(content.tobytes(), np.uint8)
        self.bytes = np.concatenate([self.bytes, padding, raw])
        self.allocated = np.concatenate([self.allocated, padding != 0, np.ones(size, bool)])
        self.written = np.concatenate([self.written, padding != 0, np.full(size, written)])
        return address

    def array(self, address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A copy of a buffer."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.bytes[address : address + size].copy().view(dtype).reshape(shape)

    def places(self, addresses: np.ndarray, size: int, store: bool) -> np.ndarray:
        """Indices ``(lanes, size)`` of the bytes that the lanes touch, checked."""
        if (addresses % np.uint64(size)).any():
            raise PtxError(f"misaligned access of {size} bytes")
        at = addresses.astype(np.int64)[:, None] + np.arange(size)
        if at.min() < 0 or at.max() >= len(self.bytes) or not self.allocated[at].all():
            raise PtxError("access outside every buffer")
        if store:
            self.written[at] = True
        elif not self.written[at].all():
            raise PtxError("read of memory that was never written")
        return at


def launch(
    kernel: Kernel, grid: int, block: int, arguments: bytes, memory: Memory, seed: int = 0
) -> None:
    """Run every block of a kernel, one after another, in random order.

    Args:
        kernel: what to run.
        grid: blocks.
        block: threads of a block, a multiple of 32.
        arguments: the kernel's parameters as they lie in memory.
        memory: global memory.
        seed: of the order of blocks and warps.
    """
    if len(arguments) != kernel.parameter_bytes:
        raise PtxError(f"{len(arguments)} bytes of arguments, expected {kernel.parameter_bytes}")
    parameters = Memory()
    parameters.allocated = parameters.written = np.ones(len(arguments), bool)
    parameters.bytes = np.frombuffer(arguments, np.uint8)
    random = np.random.default_rng(seed)
    with np.errstate(over="ignore"):
        for number in random.permutation(grid):
            shared = Memory(kernel.shared_bytes)
            spaces = {"param": parameters, "shared": shared, "global": memory}
            _run_block([_Warp(kernel, number, w, spaces) for w in range(block // WARP)], random)


def _run_block(warps: list[_Warp], random: np.random.Generator) -> None:
    while True:
        ready = [warp for warp in warps if not warp.exited.all() and warp.at_barrier is None]
        if ready:
            random.choice(np.array(ready, object)).run(int(random.integers(1, _TURN)))
            continue
        if all(warp.exited.all() for warp in warps):
            return
        if any(warp.exited.any() for warp in warps):
            raise PtxError("a barrier waits for a thread that has exited")
        count = sum(warp.at_barrier_value for warp in warps)
        for warp in warps:
            warp.pass_barrier(count)


class _Warp:
    """32 threads: their registers as arrays of 64-bit numbers (predicates: bool), one per lane."""

    def __init__(self, kernel: Kernel, block: int, number: int, spaces: dict[str, Memory]) -> None:
        self.kernel, self.spaces = kernel, spaces
        self.position = np.zeros(WARP, np.int64)
        self.exited = np.zeros(WARP, bool)
        self.at_barrier: Instruction | None = None
        self.at_barrier_value = 0
        self.registers: dict[str, np.ndarray] = {
            "%tid.x": np.arange(WARP, dtype=np.uint64) + np.uint64(number * WARP),
            "%ctaid.x": np.full(WARP, block, np.uint64),
        }

    def run(self, steps: int) -> None:
        """Go on, at most so many instructions, until the warp is at a barrier or has exited."""
        while steps and self.at_barrier is None and not self.exited.all():
            here = int(self.position[~self.exited].min())
            lanes = ~self.exited & (self.position == here)
            code = self.kernel.code[here]
            self.position[lanes] = here + 1
            if code.guard is not None:
                lanes = lanes & (self.registers[code.guard] ^ code.negated)
            if lanes.any():
                handler = getattr(self, f"_{code.parts[0]}", None)
                if handler is None:
                    raise PtxError(f"unknown instruction {'.'.join(code.parts)}")
                handler(code, lanes)
            steps -= 1

    def pass_barrier(self, count: int) -> None:
        """Leave a barrier at which ``count`` threads of the block had a true predicate."""
        code, self.at_barrier = self.at_barrier, None
        if code is not None and code.parts[1] == "red":
            self._set(code.operands[0], np.full(WARP, count, np.uint64), np.ones(WARP, bool), "u32")

    def _get(self, operand: str, kind: str) -> np.ndarray:
        """An operand's value, as the NumPy type of a PTX type."""
        if operand[0] == "%":
            value = self.registers[operand]
        elif operand in self.kernel.parameters:
            value = np.full(WARP, self.kernel.parameters[operand], np.uint64)
        elif operand in self.kernel.shared:
            value = np.full(WARP, self.kernel.shared[operand], np.uint64)
        else:
            number = int(operand[2:], 16) if operand.startswith("0d") else int(operand, 0)
            value = np.full(WARP, number % 2**64, np.uint64)
        if kind == "pred":
            return value
        dtype = {"s": "i", "f": "f"}.get(kind[0], "u") + str(bits(kind) // 8)
        return value.astype(f"u{bits(kind) // 8}").view(dtype)

    def _set(self, name: str, value: np.ndarray, lanes: np.ndarray, kind: str) -> None:
        if kind == "pred":
            new = value.astype(bool)
        else:
            size = bits(kind) // 8
            new = value.view(f"u{value.itemsize}").astype(f"u{size}").astype(np.uint64)
        old = self.registers.get(name)
        self.registers[name] = new.copy() if old is None else np.where(lanes, new, old)

    def _addresses(self, operand: str, lanes: np.ndarray) -> np.ndarray:
        base, offset = _ADDRESS.fullmatch(operand).groups()
        return (self._get(base, "u64") + np.uint64(int(offset or 0) % 2**64))[lanes]

    def _meet(self, member_mask: str, lanes: np.ndarray) -> None:
        named = int(self._get(member_mask, "u32")[lanes][0])
        arrived = sum(1 << lane for lane in np.flatnonzero(lanes))
        if named != arrived:
            raise PtxError(f"lanes {arrived:08x} arrived at an operation of lanes {named:08x}")

    def _bra(self, code: Instruction, lanes: np.ndarray) -> None:
        self.position[lanes] = self.kernel.labels[code.operands[0]]

    def _ret(self, code: Instruction, lanes: np.ndarray) -> None:
        self.exited |= lanes

    def _bar(self, code: Instruction, lanes: np.ndarray) -> None:
        if not lanes.all():
            raise PtxError("a warp is divided at a barrier")
        self.at_barrier = code
        if code.parts[1] == "red":
            self.at_barrier_value = int(self._get(code.operands[-1], "pred").sum())

    def _ld(self, code: Instruction, lanes: np.ndarray) -> None:
        kind, space = code.parts[-1], self.spaces[code.parts[1]]
        size = bits(kind) // 8
        names = code.operands[0].strip("{}").replace(" ", "").split(",")
        addresses = self._addresses(code.operands[1], lanes)
        raw = space.bytes[space.places(addresses, size * len(names), store=False)]
        for number, name in enumerate(names):
            value = np.zeros(WARP, f"u{size}")
            value[lanes] = np.ascontiguousarray(raw[:, number * size :][:, :size]).view(f"u{size}")[
                :, 0
            ]
            self._set(name, value, lanes, kind)

    def _st(self, code: Instruction, lanes: np.ndarray) -> None:
        kind, space = code.parts[-1], self.spaces[code.parts[1]]
        size = bits(kind) // 8
        names = code.operands[1].strip("{}").replace(" ", "").split(",")
        at = space.places(self._addresses(code.operands[0], lanes), size * len(names), store=True)
        values = np.stack([self._get(name, f"u{8 * size}")[lanes] for name in names], axis=1)
        space.bytes[at] = np.ascontiguousarray(values).view(np.uint8)

    def _atom(self, code: Instruction, lanes: np.ndarray) -> None:
        space, operation, kind = code.parts[1:]
        memory, dtype = self.spaces[space], f"u{bits(kind) // 8}"
        at = memory.places(self._addresses(code.operands[1], lanes), bits(kind) // 8, store=False)
        value = self._get(code.operands[2], kind)
        old = np.zeros(WARP, dtype)
        for lane, row in zip(np.flatnonzero(lanes), at, strict=True):
            old[lane] = memory.bytes[row].view(dtype)[0]
            new = _ARITHMETIC[operation](old[lane : lane + 1], value[lane : lane + 1])
            memory.bytes[row] = new.view(np.uint8)
        self._set(code.operands[0], old, lanes, kind)

    def _mov(self, code: Instruction, lanes: np.ndarray) -> None:
        kind = code.parts[-1]
        self._set(code.operands[0], self._get(code.operands[1], kind), lanes, kind)

    _cvta = _mov

    def _cvt(self, code: Instruction, lanes: np.ndarray) -> None:
        to, source = code.parts[-2:]
        value = self._get(code.operands[1], source)
        new = value.astype({"s": "i", "f": "f"}.get(to[0], "u") + str(bits(to) // 8))
        self._set(code.operands[0], new, lanes, to)

    def _binary(self, code: Instruction, lanes: np.ndarray) -> None:
        kind = code.parts[-1]
        a, b = (self._get(operand, kind) for operand in code.operands[1:3])
        if "wide" in code.parts:
            a, b = (value.astype(f"{value.dtype.kind}8") for value in (a, b))
            kind = kind[0] + "64"
        self._set(code.operands[0], _ARITHMETIC[code.parts[0]](a, b), lanes, kind)

    _add = _sub = _mul = _and = _or = _xor = _min = _max = _div = _rem = _binary

    def _mad(self, code: Instruction, lanes: np.ndarray) -> None:
        kind = code.parts[-1]
        a, b, c = (self._get(operand, kind) for operand in code.operands[1:])
        self._set(code.operands[0], a * b + c, lanes, kind)

    def _not(self, code: Instruction, lanes: np.ndarray) -> None:
        kind = code.parts[-1]
        self._set(code.operands[0], ~self._get(code.operands[1], kind), lanes, kind)

    def _shl(self, code: Instruction, lanes: np.ndarray) -> None:
        self._shift(code, lanes, np.left_shift)

    def _shr(self, code: Instruction, lanes: np.ndarray) -> None:
        self._shift(code, lanes, np.right_shift)

    def _shift(self, code: Instruction, lanes: np.ndarray, shift: np.ufunc) -> None:
        kind = code.parts[-1]
        value, count = self._get(code.operands[1], kind), self._get(code.operands[2], "u32")
        if (count[lanes] >= bits(kind)).any():
            raise PtxError("shift by the whole width")
        self._set(code.operands[0], shift(value, count.astype(value.dtype)), lanes, kind)

    def _lop3(self, code: Instruction, lanes: np.ndarray) -> None:
        a, b, c = (self._get(operand, "u32") for operand in code.operands[1:4])
        table, result = int(code.operands[4], 0), np.zeros(WARP, np.uint32)
        for row in range(8):
            if table >> row & 1:
                chosen = [v if row & s else ~v for v, s in ((a, 4), (b, 2), (c, 1))]
                result |= chosen[0] & chosen[1] & chosen[2]
        self._set(code.operands[0], result, lanes, "u32")

    def _popc(self, code: Instruction, lanes: np.ndarray) -> None:
        octets = self._get(code.operands[1], "u32").view(np.uint8).reshape(WARP, 4)
        count = np.unpackbits(octets, axis=1).sum(1, dtype=np.uint32)
        self._set(code.operands[0], count, lanes, "u32")

    def _bfi(self, code: Instruction, lanes: np.ndarray) -> None:
        kind = code.parts[-1]
        field, into = (self._get(operand, kind) for operand in code.operands[1:3])
        start, length = (int(operand) for operand in code.operands[3:])
        mask = into.dtype.type(((1 << length) - 1) << start)
        shifted = field << into.dtype.type(start)
        self._set(code.operands[0], (into & ~mask) | (shifted & mask), lanes, kind)

    def _setp(self, code: Instruction, lanes: np.ndarray) -> None:
        kind = code.parts[-1]
        a, b = (self._get(operand, kind) for operand in code.operands[1:])
        self._set(code.operands[0], _COMPARE[code.parts[1]](a, b), lanes, "pred")

    def _selp(self, code: Instruction, lanes: np.ndarray) -> None:
        kind = code.parts[-1]
        a, b = (self._get(operand, kind) for operand in code.operands[1:3])
        chosen = np.where(self._get(code.operands[3], "pred"), a, b)
        self._set(code.operands[0], chosen, lanes, kind)

    def _shfl(self, code: Instruction, lanes: np.ndarray) -> None:
        if code.parts[2] != "bfly" or (self._get(code.operands[3], "u32") != WARP - 1).any():
            raise PtxError(f"unknown shuffle {'.'.join(code.parts)} {code.operands}")
        self._meet(code.operands[4], lanes)
        value, step = self._get(code.operands[1], "u32"), self._get(code.operands[2], "u32")
        found = value[np.arange(WARP) ^ step]
        self._set(code.operands[0].split("|")[0], found, lanes, "u32")

    def _redux(self, code: Instruction, lanes: np.ndarray) -> None:
        self._meet(code.operands[2], lanes)
        result = _ARITHMETIC[code.parts[2]].reduce(self._get(code.operands[1], "u32")[lanes])
        self._set(code.operands[0], np.full(WARP, result, np.uint32), lanes, "u32")

    def _vote(self, code: Instruction, lanes: np.ndarray) -> None:
        self._meet(code.operands[2], lanes)
        true = self._get(code.operands[1], "pred") & lanes
        ballot = np.uint32(sum(1 << lane for lane in np.flatnonzero(true)))
        self._set(code.operands[0], np.full(WARP, ballot, np.uint32), lanes, "u32")
