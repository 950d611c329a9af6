"""Machine code of x86-64, as objdump writes it."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from machine_code import following
from machine_code.following import (
    CALLS,
    CONSTANTS,
    FLAGS,
    KEY,
    PUBLIC,
    SECRET,
    TABLE,
    TAKES_KEY,
    CannotTell,
    Instruction,
    Stack,
    State,
    Value,
    load,
    mix,
    store,
)

_ARGUMENTS: Final = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")
_KEPT: Final = ("rbx", "rbp", "rsp", "r12", "r13", "r14", "r15")
_NAMES = {
    alias: name
    for name in (*_ARGUMENTS[:4], "rax", "rbx", "rbp", "rsp")
    for alias in (name, "e" + name[1:], name[1:], name[1:2] + "l", name[1:2] + "h", name[1:] + "l")
} | {f"r{n}{suffix}": f"r{n}" for n in range(8, 16) for suffix in ("", "d", "w", "b")}
GENERAL: Final = tuple(sorted(set(_NAMES.values())))
_NAMES |= {f"{size}mm{n}": f"zmm{n}" for n in range(32) for size in "xyz"} | {f"k{n}": f"k{n}" for n in range(8)}
REGISTERS: Final = tuple(sorted(set(_NAMES.values())))

_LINE: Final = re.compile(r"^ +([0-9a-f]+):\t(?:(?:notrack|bnd|lock|rep\w*|data16|cs) )*(\S+) *(.*)$")
_RELOCATION: Final = re.compile(r"\t\s*[0-9a-f]+: R_X86_64_\w+\t(\S+?)([-+]0x[0-9a-f]+)?$")
_MEMORY: Final = re.compile(r"^(?:%(\ws):)?(-?0x[0-9a-f]+|-?\d+)?\((%\w+)?(?:,(%\w+),\d)?\)$")
_MOVES: Final = re.compile(r"v?mov|kmov|vpbroadcast|vbroadcast|vextract|vpmov|v?pextr|bswap$")
"""Whose result is their first operands' alone, the target's value before does not count."""
_ADDS_TO: Final = re.compile(r"vpmadd52|vfn?m|vpternlog|vperm[it]2|vpdp")
"""Vector instructions with three operands that read the target."""
_COMPARES: Final = ("cmp", "test", "bt", "vptest", "ptest", "vtest", "kortest", "ktest", "vucomi", "vcomi")
_VECTOR_FLAGS: Final = ("vptest", "ptest", "vtest", "kortest", "ktest", "vucomi", "vcomi")
_KEEPS_FLAGS: Final = (
    "mov", "lea", "push", "pop", "set", "cmov", "not", "nop", "xchg", "rorx", "shlx", "shrx", "sarx", "mulx", "pdep",
    "pext", "bswap", "cltq", "cqto", "cwtl", "cltd",
)  # fmt: skip


_WIDTHS: Final = (
    (r"vextract[if](128|32x4|64x2)", 16),
    (r"vextract[if](32x8|64x4)", 32),
    (r"(k?mov|set\w+|v?pextr)b$|set", 1),
    (r"(kmov|mov|v?pextr)w$", 2),
    (r"(kmov|v?pextr|v?mov)d$|movl$", 4),
    (r"(kmov|v?pextr|v?mov)q$|v?mov[hl]p", 8),
)
"""Bytes that instructions store, by their names; of any others, the register says how many."""


# ---- reading an object ----


def functions(path: Path) -> Iterator[tuple[str, list[Instruction]]]:
    """Name and code of each function of an object."""
    command = ["objdump", "-dr", "--no-show-raw-insn", "--wide", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    name, code = "", list[Instruction]()
    for line in text.splitlines():
        if header := re.match(r"^[0-9a-f]+ <(\S+)>:$", line):
            if code:
                yield name, code
            name, code = header[1], []
        elif found := _LINE.match(_RELOCATION.sub("", line)):
            target = re.search(r"<(\w+)(?:\+0x[0-9a-f]+)?>", found[3])
            relocation = _RELOCATION.search(line)
            symbol, offset = target[1] if target else "", 0
            if relocation:
                symbol, offset = relocation[1], int(relocation[2] or "0", 16) + 4
            operands = re.sub(r"\s*(<.*>|#.*)", "", found[3])
            parts = tuple(part.strip() for part in re.split(r",(?![^(]*\))", operands) if part.strip())
            code.append(Instruction(int(found[1], 16), found[2], parts, symbol, offset))
    if code:
        yield name, code


def jump_tables(path: Path) -> dict[int, set[int]]:
    """For each table in the object's constants, by its offset: the places in the code that it names."""
    tables: dict[int, set[int]] = {}
    with path.open("rb") as file:
        elf = ELFFile(file)
        symbols = elf.get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        entries = list[tuple[int, int]]()
        for section in elf.iter_sections():
            if not isinstance(section, RelocationSection) or section.name not in (".rela.text", ".rela.rodata"):
                continue
            for relocation in section.iter_relocations():
                symbol = symbols.get_symbol(relocation["r_info_sym"])
                at = symbol["st_value"] + relocation["r_addend"]
                if section.name == ".rela.rodata":
                    entries.append((relocation["r_offset"], at))
                elif isinstance(of := symbol["st_shndx"], int) and elf.get_section(of).name == ".rodata":
                    tables[at + 4] = set()
    for offset, at in entries:  # relative to the table that the entry is in
        start = max(start for start in tables if start <= offset)
        tables[start].add(at - (offset - start))
    return tables


def _width(i: Instruction) -> int:
    """How many bytes it stores, if it does; if in doubt, too many."""
    for pattern, width in _WIDTHS:
        if re.match(pattern, i.name):
            return width
    registers = [operand[1:] for operand in i.operands if operand.startswith("%")]
    for register in registers:
        if register[1:3] == "mm":
            return {"x": 16, "y": 32, "z": 64}[register[0]]
    for register in registers:
        if register in _NAMES:
            full = _NAMES[register]
            return 8 if register == full else 4 if register[0] == "e" or register.endswith("d") else 2
    return 8


# ---- following a function ----


class Function(following.Function):
    """One function of x86-64."""

    def __init__(self, name: str, code: list[Instruction], tables: dict[int, set[int]]) -> None:
        super().__init__(name, code)
        self._tables = tables

    def _entry(self) -> State:
        values: dict[str, Value] = dict.fromkeys((*REGISTERS, FLAGS), PUBLIC)
        values["rsp"] = ("entry", 0)
        if self.name in TAKES_KEY:
            values["rdi"] = KEY
        # Arguments beyond the sixth: the one that seal and open have.
        return State(values, {("entry", 8): PUBLIC})

    def _is_conditional(self, i: Instruction) -> bool:
        return i.name.startswith("j") and i.name != "jmp"

    def _step(self, i: Instruction, state: State) -> list[int]:
        following = self._following(i)
        if i.name in ("ret", "ud2", "hlt"):
            return []
        for operand in i.operands:
            self._check_address(i, operand, state)
        if i.name.startswith("j"):
            return self._jump(i, state, following)
        if i.name == "call":
            if i.symbol == "__stack_chk_fail":
                return []
            self._call(i, state)
            return following
        self._compute(i, state)
        return following

    # ---- jumps and calls ----

    def _jump(self, i: Instruction, state: State, following: list[int]) -> list[int]:
        if i.operands[0].startswith("*"):
            where = self._load(i, i.operands[0][1:], state)
            if where == SECRET:
                self._fault(i, "a secret target")
                return []
            if not isinstance(where, str) or not where.startswith(TABLE):
                raise CannotTell(f"{self.name}: a jump by no table, {i}")
            return sorted(self._tables[int(where.removeprefix(TABLE))])
        if i.name == "jmp" and i.symbol not in ("", self.name):  # a call instead of a return
            self._call(i, state)
            return []
        if i.name != "jmp" and state.values[FLAGS] == SECRET:
            self._fault(i, "a branch on a secret")
        target = int(i.operands[0], 16)
        if target not in self._index:
            raise CannotTell(f"{self.name}: a jump out of the function, {i}")
        return [target] if i.name == "jmp" else [target, *following]

    def _call(self, i: Instruction, state: State) -> None:
        if i.symbol not in CALLS:
            raise CannotTell(f"{self.name}: a call of {i.symbol or i.operands}")
        for register in _ARGUMENTS[: CALLS[i.symbol]]:
            if state.values[register] == SECRET:
                self._fault(i, f"a secret argument in {register}")
        for register in set(REGISTERS) - set(_KEPT):
            state.values[register] = SECRET  # nobody looks at them
        state.values["rax"], state.values[FLAGS] = PUBLIC, SECRET

    # ---- operands ----

    def _check_address(self, i: Instruction, operand: str, state: State) -> None:
        memory = _MEMORY.match(operand)
        if memory is None or i.name.startswith(("nop", "lea")):
            return
        for register in memory.groups()[2:]:
            if register is None or register == "%rip":
                continue
            if register[1:] not in _NAMES:
                raise CannotTell(f"{self.name}: an address in {register}")
            if state.values[_NAMES[register[1:]]] == SECRET:
                self._fault(i, "a secret address")

    def _place(self, i: Instruction, operand: str, state: State) -> Value:
        """What an address points to: a place of the stack, the key, constants, or (public) anything."""
        memory = _MEMORY.match(operand)
        if memory is None:
            return PUBLIC
        _, distance, base, index = memory.groups()
        if base == "%rip":
            return f"{CONSTANTS}{i.offset}"
        if base is None:
            return PUBLIC
        value = state.values[_NAMES[base[1:]]]
        if isinstance(value, tuple):
            return PUBLIC if index else (value[0], value[1] + int(distance or "0", 16))
        return value

    def _load(self, i: Instruction, operand: str, state: State, size: int = 8) -> Value:
        if operand.startswith(("$", "%fs:")):  # of the thread: the stack protector's canary
            return PUBLIC
        if operand.startswith("%") and "(" not in operand:
            if operand[1:] not in _NAMES:
                raise CannotTell(f"{self.name}: the register {operand}")
            return state.values[_NAMES[operand[1:]]]
        place = self._place(i, operand, state)
        if isinstance(place, tuple):
            return load(state, place, size)
        if isinstance(place, str) and place.startswith(CONSTANTS):
            return place.replace(CONSTANTS, TABLE)
        return PUBLIC if place == KEY else SECRET

    def _store(self, i: Instruction, operand: str, value: Value, state: State, size: int) -> None:
        if operand.startswith("%") and "(" not in operand:
            state.values[_NAMES[operand[1:]]] = value
            return
        place = self._place(i, operand, state)
        if isinstance(place, tuple):
            store(state, place, value, size)

    # ---- everything else ----

    def _compute(self, i: Instruction, state: State) -> None:
        name, operands = i.name, i.operands
        if name.startswith(("div", "idiv")) and SECRET in (self._load(i, operands[0], state), state.values["rax"]):
            self._fault(i, "a division of a secret")
        if name == "push":
            self._move_stack(state, -8)
            self._store(i, "(%rsp)", self._load(i, operands[0], state), state, 8)
        elif name == "pop":
            self._store(i, operands[0], state.slots.get(self._stack(state), SECRET), state, 8)
            self._move_stack(state, 8)
        elif name == "leave":
            state.values["rsp"] = state.values["rbp"]
            state.values["rbp"] = state.slots.get(self._stack(state), SECRET)
            self._move_stack(state, 8)
        elif name in ("cltq", "cqto", "cwtl", "cltd"):
            state.values["rdx"] = state.values["rax"]
        elif name.startswith(("nop", "endbr", "prefetch", "vzeroupper", "data16")):
            return
        elif operands:
            self._compute_operands(i, state)

    def _stack(self, state: State) -> Stack:
        at = state.values["rsp"]
        if not isinstance(at, tuple):
            raise CannotTell(f"{self.name}: the stack pointer is lost")
        return at

    def _move_stack(self, state: State, by: int) -> None:
        base, distance = self._stack(state)
        state.values["rsp"] = (base, distance + by)

    def _compute_operands(self, i: Instruction, state: State) -> None:
        name, size = i.name, _width(i)
        masks = re.findall(r"\{%(k\d)\}", i.operands[-1])
        keeps = bool(masks) and "{z}" not in i.operands[-1]
        operands = [re.sub(r"\{.*", "", operand) for operand in i.operands]
        target, sources = operands[-1], [self._load(i, operand, state, size) for operand in operands[:-1]]
        before = self._load(i, target, state, size)
        vector = any(re.match(r"%(?:[xyz]mm|k\d)", operand) for operand in operands)
        inputs = [*sources, *(state.values[mask] for mask in masks)]
        if name.startswith(("cmov", "adc", "sbb", "rcl", "rcr", "set")):
            inputs.append(state.values[FLAGS])
        if name.startswith("mulx"):
            inputs = [sources[0], state.values["rdx"]]
            self._store(i, operands[1], mix(inputs), state, 8)
        elif not (
            _MOVES.match(name) or name.startswith(("lea", "set")) or (len(operands) > 2 and not _ADDS_TO.match(name))
        ):
            inputs.append(before)  # two operands, the target one of them
        elif keeps:
            inputs.append(before)
        result: Value = mix(inputs)
        if name.startswith("lea"):
            result = self._address(i, operands[0], state)
        elif re.match(r"mov(abs|[lq]|slq)?$", name) and not vector:
            result = sources[0]
        elif (
            name == "add"
            and isinstance(before, str)
            and f"{before} {sources[0]}".count(TABLE) == 1
            and SECRET not in inputs
        ):
            result = before if before.startswith(TABLE) else sources[0]  # and the address of that table
        elif re.match(r"v?pxor|vxorp|k?xor|sub|vpsub", name) and len({*operands[:2]}) == 1:
            result = PUBLIC  # nothing, whatever it was
        elif name.startswith(("add", "sub")) and operands[0].startswith("$") and isinstance(before, tuple):
            by = int(operands[0][1:], 16)
            by -= (1 << 64) if by >> 63 else 0
            result = (before[0], before[1] + (by if name.startswith("add") else -by))
        elif name.startswith("and") and target == "%rsp":  # aligned: from here on another base
            result = (f"aligned at {i.address:#x}", 0)
        if name.startswith(("mul", "imul", "div", "idiv")) and len(operands) == 1:
            state.values["rax"] = state.values["rdx"] = mix([before, state.values["rax"]])
        elif not name.startswith(_COMPARES):
            self._store(i, target, result, state, size)
        if name.startswith(_VECTOR_FLAGS) or (not vector and not name.startswith(_KEEPS_FLAGS)):
            state.values[FLAGS] = mix([result if isinstance(result, str) else PUBLIC])

    def _address(self, i: Instruction, operand: str, state: State) -> Value:
        place = self._place(i, operand, state)
        memory = _MEMORY.match(operand)
        assert memory is not None
        registers = [register[1:] for register in memory.groups()[2:] if register not in (None, "%rip")]
        if any(state.values[_NAMES[register]] == SECRET for register in registers):
            return SECRET
        return place if isinstance(place, tuple) or place.startswith(CONSTANTS) else PUBLIC


def read(path: Path) -> Iterator[Function]:
    """Each function of an object."""
    tables = jump_tables(path)
    for name, code in functions(path):
        yield Function(name, code, tables)
