"""Machine code of AArch64, as objdump writes it. Whatever is not listed here is refused, not guessed."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from elftools.elf.elffile import ELFFile

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
    State,
    Value,
    load,
    mix,
    store,
)

REGISTERS: Final = (*(f"x{n}" for n in range(31)), "sp", *(f"v{n}" for n in range(32)))
_KEPT: Final = {*(f"x{n}" for n in range(19, 31)), "sp", *(f"v{n}" for n in range(8, 16))}
CODE: Final = "code "
"""An address in the code; followed by it. What is added to it comes of a table of jumps."""
GUARD: Final = "__stack_chk_guard"
"""The stack protector's canary is no secret of ours: the comparison with it is no branch on one."""

_SIZES: Final = {"b": 1, "h": 2, "s": 4, "w": 4, "d": 8, "x": 8, "q": 16, "v": 16}
_STORES: Final = {"str", "stur", "stp", "strb", "sturb", "strh", "sturh"}
_LOADS: Final = {"ldr", "ldur", "ldp", "ldrb", "ldurb", "ldrh", "ldurh", "ldrsw", "ldursw", "ldrsb", "ldrsh"}
_COMPARES: Final = {"cmp", "cmn", "tst", "ccmp", "ccmn"}
_SET_FLAGS: Final = {"adds", "subs", "ands", "bics", "negs"}
_READ_FLAGS: Final = {
    "csel", "cset", "csetm", "csinc", "csinv", "csneg", "cinc", "cinv", "cneg", "adc", "sbc", "ngc", "ccmp", "ccmn",
}  # fmt: skip
_READ_TARGET: Final = {"aese", "aesd", "bfi", "bfxil", "movk", "sli", "sri", "bsl", "bit", "bif", "mla", "mls", "ins"}
_PURE: Final = {
    "add", "sub", "and", "orr", "orn", "eor", "eon", "bic", "mvn", "neg", "mov", "movz", "movn", "movi", "mvni", "fmov",
    "lsl", "lsr", "asr", "ror", "extr", "ubfx", "sbfx", "ubfiz", "sbfiz", "sxtw", "sxtb", "sxth", "uxtb", "uxth",
    "uxtw", "rev", "rev16", "rev32", "rev64", "rbit", "clz", "mul", "madd", "msub", "mneg", "umull", "smull", "umulh",
    "smulh",
    "ext", "pmull", "pmull2", "aesmc", "aesimc", "dup", "umov", "shl", "ushr", "sshr", "zip1", "zip2", "uzp1", "uzp2",
    "trn1", "trn2", "cmhi", "cmhs", "cmeq", "cmgt", "cmge", "cmtst", "not", "tbl",
}  # fmt: skip
_LINE: Final = re.compile(r"^ +([0-9a-f]+):\t(\S+)(?:\t([^\t]*))?$")
_RELOCATION: Final = re.compile(r"\t[0-9a-f]+: R_AARCH64_\w+\t(\S+?)(?:\+(0x[0-9a-f]+))?$")
_NO_REGISTER: Final = re.compile(
    r"^(#|(lsl|lsr|asr|ror|msl|[us]xt[bhwx])\b|(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al)$)"
)
_REGISTER: Final = re.compile(r"^([xwqdshbv])(\d+)(\.\w+)?(\[\d+\])?$")


def functions(path: Path) -> Iterator[tuple[str, list[Instruction]]]:
    """Name and code of each function of an object."""
    objdump = shutil.which("aarch64-linux-gnu-objdump") or "objdump"
    command = [objdump, "-dr", "--no-show-raw-insn", "--wide", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    name, code = "", list[Instruction]()
    for line in text.splitlines():
        if header := re.match(r"^[0-9a-f]+ <(\S+)>:$", line):
            if code:
                yield name, code
            name, code = header[1], []
            continue
        relocation = _RELOCATION.search(line)
        found = _LINE.match(re.sub(r"\s*//.*", "", _RELOCATION.sub("", line)))
        if found:
            target = re.search(r"<(\w+)(?:\+0x[0-9a-f]+)?>", found[3] or "")
            operands = re.sub(r"\s*<.*>", "", found[3] or "")
            parts = tuple(part.strip() for part in re.split(r",(?![^\[{]*[\]}])", operands) if part.strip())
            symbol, offset = target[1] if target else "", 0
            if relocation:
                symbol, offset = relocation[1], int(relocation[2] or "0", 16)
            code.append(Instruction(int(found[1], 16), found[2], parts, symbol, offset))
    if code:
        yield name, code


def rodata(path: Path) -> bytes:
    """The constants that tables of jumps are among."""
    with path.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".rodata")
        return section.data() if section is not None else b""


def read(path: Path) -> Iterator["Function"]:
    """Each function of an object."""
    constants, all_of_them = rodata(path), [*functions(path)]
    starts = {i.offset for _, code in all_of_them for i in code if i.symbol == ".rodata"}
    ends = sorted({*starts, len(constants)})
    tables = {start: constants[start : min(end for end in ends if end > start)] for start in starts}
    for name, code in all_of_them:
        yield Function(name, code, tables)


class Function(following.Function):
    """One function of AArch64."""

    def __init__(self, name: str, code: list[Instruction], tables: dict[int, bytes]) -> None:
        super().__init__(name, code)
        self._tables = tables

    def _entry(self) -> State:
        values: dict[str, Value] = dict.fromkeys((*REGISTERS, FLAGS), PUBLIC)
        values["sp"] = ("entry", 0)
        if self.name in TAKES_KEY:
            values["x0"] = KEY
        return State(values)

    def _is_conditional(self, i: Instruction) -> bool:
        return i.name.startswith(("b.", "cbz", "cbnz", "tbz", "tbnz"))

    def _step(self, i: Instruction, state: State) -> list[int]:
        if i.name in ("ret", "brk", "udf"):
            return []
        if i.name == "b" or self._is_conditional(i):
            return self._branch(i, state)
        if i.name == "br":
            return self._jump(i, state)
        if i.name == "bl":
            if i.symbol == "__stack_chk_fail":
                return []
            self._call(i, state)
        elif i.name in _STORES or i.name in _LOADS:
            self._access(i, state)
        elif i.name not in ("nop", "hint", "bti"):
            self._compute(i, state)
        return self._following(i)

    # ---- branches and calls ----

    def _branch(self, i: Instruction, state: State) -> list[int]:
        if i.name == "b" and i.symbol not in ("", self.name):  # a call instead of a return
            self._call(i, state)
            return []
        on = FLAGS if i.name.startswith("b.") else None if i.name == "b" else self._register(i, i.operands[0])
        if on is not None and state.values[on] == SECRET:
            self._fault(i, "a branch on a secret")
        target = int(i.operands[-1], 16)
        if target not in self._index:
            raise CannotTell(f"{self.name}: a jump out of the function, {i}")
        return [target] if i.name == "b" else [target, *self._following(i)]

    def _jump(self, i: Instruction, state: State) -> list[int]:
        where = state.values[self._register(i, i.operands[0])]
        if where == SECRET:
            self._fault(i, "a secret target")
            return []
        found = re.fullmatch(rf"{CODE}(\d+) {TABLE}(\d+)", where) if isinstance(where, str) else None
        if found is None:
            raise CannotTell(f"{self.name}: a jump by no table, {i}")
        base, table = int(found[1]), self._tables[int(found[2])]
        entries = [int.from_bytes(table[at : at + 4], "little", signed=True) for at in range(0, len(table) - 3, 4)]
        return sorted({base + entry for entry in entries})

    def _call(self, i: Instruction, state: State) -> None:
        if i.symbol not in CALLS:
            raise CannotTell(f"{self.name}: a call of {i.symbol or i.operands}")
        for n in range(CALLS[i.symbol]):
            if state.values[f"x{n}"] == SECRET:
                self._fault(i, f"a secret argument in x{n}")
        for register in set(REGISTERS) - _KEPT:
            state.values[register] = SECRET  # nobody looks at them
        state.values["x0"], state.values[FLAGS] = PUBLIC, SECRET

    # ---- operands ----

    def _register(self, i: Instruction, operand: str) -> str:
        if operand == "sp":
            return operand
        found = _REGISTER.match(operand)
        if found is None:
            raise CannotTell(f"{self.name}: the register {operand} in {i}")
        return ("x" if found[1] in "xw" else "v") + found[2]

    def _value(self, i: Instruction, operand: str, state: State) -> Value:
        """Of a source: a register, nothing, a number, a shift, a condition."""
        if operand in ("xzr", "wzr") or _NO_REGISTER.match(operand):
            return PUBLIC
        if operand.startswith("{"):
            return mix([state.values[self._register(i, each.strip())] for each in operand[1:-1].split(",")])
        return state.values[self._register(i, operand)]

    def _access(self, i: Instruction, state: State) -> None:
        """A load or a store, of one register or two."""
        at = next(n for n, operand in enumerate(i.operands) if operand.startswith("["))
        registers, memory, after = i.operands[:at], i.operands[at], i.operands[at + 1 :]
        parts = [part.strip() for part in memory.rstrip("!")[1:-1].split(",")]
        base, rest = self._register(i, parts[0]), parts[1:]
        for register in (base, *(self._register(i, part) for part in rest[:1] if not part.startswith("#"))):
            if state.values[register] == SECRET:
                self._fault(i, "a secret address")
        place = self._moved(state.values[base], rest)
        size = _SIZES[registers[0][0]] if registers[0] not in ("xzr", "wzr") else 8 if registers[0] == "xzr" else 4
        if suffix := re.search(r"(?:ldr|str|ldur|stur)s?([bhw])$", i.name):
            size = _SIZES[suffix[1]]
        for n, register in enumerate(registers):
            here = (place[0], place[1] + n * size) if isinstance(place, tuple) else place
            if i.name in _LOADS:
                if register not in ("xzr", "wzr"):
                    state.values[self._register(i, register)] = self._loaded(i, here, size, state)
            elif isinstance(here, tuple):
                store(state, here, self._value(i, register, state), size)
        if memory.endswith("!"):
            state.values[base] = place
        elif after:
            state.values[base] = self._moved(state.values[base], list(after))

    def _moved(self, value: Value, by: list[str]) -> Value:
        """An address and a distance, which may be a register's."""
        if not by:
            return value
        if isinstance(value, tuple):
            return (value[0], value[1] + int(by[0][1:], 0)) if by[0].startswith("#") else PUBLIC
        return value

    def _loaded(self, i: Instruction, place: Value, size: int, state: State) -> Value:
        if isinstance(place, tuple):
            return load(state, place, size)
        if i.symbol == GUARD:
            return KEY  # its address; what is there is public
        if place.startswith(CONSTANTS):
            return place.replace(CONSTANTS, TABLE) if i.name == "ldrsw" else PUBLIC
        return PUBLIC if place == KEY else SECRET

    # ---- everything else ----

    def _compute(self, i: Instruction, state: State) -> None:
        name, operands = i.name, i.operands
        if name in ("adr", "adrp"):
            self._address(i, state)
            return
        if name in ("udiv", "sdiv"):
            if SECRET in (self._value(i, operand, state) for operand in operands[1:]):
                self._fault(i, "a division of a secret")
        elif not {name} & (_PURE | _COMPARES | _SET_FLAGS | _READ_FLAGS | _READ_TARGET):
            raise CannotTell(f"{self.name}: {name} {','.join(operands)}")
        sources = operands if name in _COMPARES else operands[1:]
        inputs = [self._value(i, operand, state) for operand in sources]
        if name in _READ_FLAGS:
            inputs.append(state.values[FLAGS])
        if name in _COMPARES:
            state.values[FLAGS] = mix(inputs)
            return
        if name in _READ_TARGET or (operands[0].endswith("]") and name in ("mov", "fmov", "ins")):  # a part of it
            inputs.append(state.values[self._register(i, operands[0])])
        result = self._result(i, inputs)
        if name in _SET_FLAGS:
            state.values[FLAGS] = mix(inputs)
        if operands[0] not in ("xzr", "wzr"):
            state.values[self._register(i, operands[0])] = result

    def _result(self, i: Instruction, inputs: list[Value]) -> Value:
        name, operands = i.name, i.operands
        first = inputs[0]
        if name == "mov" and len(inputs) == 1:
            return first
        if name in ("eor", "sub") and len(operands) == 3 and operands[1] == operands[2]:
            return PUBLIC  # nothing, whatever it was
        if name in ("add", "sub", "subs", "adds") and len(operands) >= 3 and operands[2].startswith("#"):
            if isinstance(first, tuple):
                by = int(operands[2][1:], 0) << (12 if operands[3:] == ("lsl #12",) else 0)
                return (first[0], first[1] + (by if name.startswith("add") else -by))
            if isinstance(first, str) and first.startswith(CONSTANTS) and i.symbol:
                return first
        if name == "add" and len(operands) == 3:
            code = [value for value in inputs if isinstance(value, str) and value.startswith(CODE)]
            table = [value for value in inputs if isinstance(value, str) and value.startswith(TABLE)]
            if len(code) == len(table) == 1:
                return f"{code[0]} {table[0]}"
        if name == "and" and operands[0] == "sp":  # aligned: from here on another base
            return (f"aligned at {i.address:#x}", 0)
        return mix(inputs)

    def _address(self, i: Instruction, state: State) -> None:
        value = PUBLIC
        if i.name == "adr":
            value = f"{CODE}{int(i.operands[1], 16)}"
        elif i.symbol.startswith(".rodata"):
            value = f"{CONSTANTS}{i.offset}"
        state.values[self._register(i, i.operands[0])] = value
