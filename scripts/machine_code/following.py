"""Code, followed along all of its ways, with what its registers, its flags and its part of the stack may hold."""

import abc
from dataclasses import dataclass, field
from typing import Final

PUBLIC: Final = "public"
SECRET: Final = "secret"
KEY: Final = "key"
"""The address of a ``cq_aead_key``: what is there is public."""
CONSTANTS: Final = "constants "
"""An address in the object's constants, and in nothing that it writes; followed by its number."""
TABLE: Final = "table "
"""An entry of the table of jumps with that number."""
Stack = tuple[str, int]
"""An address in the function's frame: what it is relative to, and the distance."""
Value = str | Stack

CALLS: Final = {
    "cq_aead_tags_equal": 2, "cq_wipe": 2, "cq_wipe_free": 2, "aligned_alloc": 2, "memset": 3, "memcpy": 3,
    "explicit_bzero": 2, "__explicit_bzero_chk": 3, "free": 1, "stream": 4, "__stack_chk_fail": 0,
}  # fmt: skip
"""Functions that may be called, and how many arguments they take."""
TAKES_KEY: Final = ("init", "seal", "open", "wipe")


FLAGS: Final = "flags"


class CannotTell(Exception):
    """An instruction, or a call, that this program does not know."""


@dataclass(frozen=True)
class Instruction:
    """One, with its operands as objdump writes them."""

    address: int
    name: str
    operands: tuple[str, ...]
    symbol: str
    """Of the relocation, or of the target; empty if there is none."""
    offset: int
    """Of what is meant behind that symbol, where it is a section."""


@dataclass
class State:
    """What registers, flags and the stack may hold at one place."""

    values: dict[str, Value]
    slots: dict[Stack, Value] = field(default_factory=dict)

    def copy(self) -> "State":
        return State(dict(self.values), dict(self.slots))

    def join(self, other: "State") -> bool:
        """Adds what may be so as well; whether that changes anything. A slot that one does not know is secret."""
        changed = False
        for name, value in other.values.items():
            joined = join(self.values[name], value)
            changed |= joined != self.values[name]
            self.values[name] = joined
        for slot, value in list(self.slots.items()):
            joined = join(value, other.slots[slot]) if slot in other.slots else SECRET
            changed |= joined != value
            self.slots[slot] = joined
        return changed


def join(a: Value, b: Value) -> Value:
    if a == b:
        return a
    return SECRET if SECRET in (a, b) else PUBLIC


def mix(values: list[Value]) -> str:
    """What is computed of these."""
    return SECRET if SECRET in values else PUBLIC


def slots_of(place: Stack, size: int) -> list[Stack]:
    """The words of eight bytes that so many bytes of the stack lie in."""
    base, distance = place
    return [(base, at) for at in range(distance & ~7, distance + size, 8)]


class Function(abc.ABC):
    """One function. ``faults`` says what is wrong, once each. What instructions do is for each kind of CPU."""

    def __init__(self, name: str, code: list[Instruction]) -> None:
        self.name = name
        self.faults: dict[int, str] = {}
        self.jumps = 0
        """Conditional ones."""
        self._code = code
        self._index = {instruction.address: index for index, instruction in enumerate(code)}
        self._before: dict[int, State] = {}

    def check(self) -> None:
        """Follows it to where nothing new comes."""
        waiting = self._arrive(self._code[0].address, self._entry())
        while waiting:
            address = waiting.pop()
            state = self._before[address].copy()
            for target in self._step(self._code[self._index[address]], state):
                waiting += self._arrive(target, state)
        self.jumps = sum(map(self._is_conditional, self._code))

    @abc.abstractmethod
    def _entry(self) -> State:
        """What the function is called with."""

    @abc.abstractmethod
    def _step(self, i: Instruction, state: State) -> list[int]:
        """Carries out one instruction, and returns the addresses that may follow."""

    @abc.abstractmethod
    def _is_conditional(self, i: Instruction) -> bool:
        """Whether it may go on at more than one place, by the flags or a register."""

    def _arrive(self, address: int, state: State) -> list[int]:
        """Where there is something new."""
        known = self._before.get(address)
        if known is None:
            self._before[address] = state.copy()
            return [address]
        return [address] if known.join(state) else []

    def _following(self, i: Instruction) -> list[int]:
        after = self._index[i.address] + 1
        return [self._code[after].address] if after < len(self._code) else []

    def _fault(self, instruction: Instruction, what: str) -> None:
        code = f"{instruction.name} {','.join(instruction.operands)}"
        self.faults[instruction.address] = (
            f"{self.name}+{instruction.address - self._code[0].address:#x}: {what}: {code}"
        )


def load(state: State, place: Stack, size: int) -> Value:
    """So many bytes of the stack."""
    values = [state.slots.get(slot, SECRET) for slot in slots_of(place, size)]
    return values[0] if len(values) == 1 else mix(values)


def store(state: State, place: Stack, value: Value, size: int) -> None:
    """So many bytes to the stack; of a slot that is written in part, the rest stays."""
    for slot in slots_of(place, size):
        whole = slot[1] >= place[1] and slot[1] + 8 <= place[1] + size
        state.slots[slot] = value if whole else join(state.slots.get(slot, value), value)
