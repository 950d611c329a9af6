"""Checks that an object file of a cipher back end has no branch and no address that hangs on a secret.

    scripts/constant_time.py OBJECT...

For x86-64 and AArch64, by objdump. valgrind sees the same in a program that runs (tests/c/ct_records.c), but knows
neither VAES nor AVX-512, and what is for another CPU it cannot run; this reads machine code. Each function is followed
along all of its ways, with what its registers, its flags and its part of the stack may hold: something public or
something secret.

- Public is what a function is called with (addresses, lengths), what is in the key's two words, constants, and what is
  computed from public values alone.
- Secret is whatever else is loaded from memory, and what has any secret operand.
- It is a fault if the flags of a conditional jump, the target of a jump, a part of an address, an operand of a
  division, or an argument of a call is secret. What ``cq_aead_tags_equal`` returns is public.

What it takes on trust: that eight bytes of the stack which were stored by their place are not overwritten through a
pointer before they are loaded by their place, and are all loaded only if all were stored; and that instructions take as
long whatever they compute, but for divisions.
"""

import sys
from pathlib import Path

from elftools.elf.elffile import ELFFile
from machine_code import aarch64, x86_64
from machine_code.following import CannotTell


def check(path: Path) -> tuple[list[str], int]:
    """What is wrong in an object, and how many conditional jumps there are in it."""
    faults, jumps = [], 0
    with path.open("rb") as file:
        machine = ELFFile(file).get_machine_arch()
    for function in (aarch64 if machine == "AArch64" else x86_64).read(path):
        function.check()
        faults += [fault for _, fault in sorted(function.faults.items())]
        jumps += function.jumps
    return faults, jumps


def main() -> int:
    status = 0
    for word in sys.argv[1:]:
        try:
            faults, jumps = check(Path(word))
        except CannotTell as error:
            faults, jumps = [str(error)], 0
        print(f"{word}: {jumps} conditional jumps, {len(faults)} faults", *faults, sep="\n    ")
        status |= bool(faults)
    return status


if __name__ == "__main__":
    sys.exit(main())
