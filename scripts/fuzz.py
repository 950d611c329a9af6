"""Looks for bytes that break what must hold in Python (tests/rigs/fuzz_targets.py), guided by coverage: `fuzz.py NAME`,
then arguments of libFuzzer. atheris does it (pip install '.[fuzz]')."""

import sys

import atheris

with atheris.instrument_imports(include=["cryprq"]):
    from tests.rigs.fuzz_targets import TARGETS


def main() -> None:
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
