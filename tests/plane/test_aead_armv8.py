"""The aarch64 back end in ``csrc/cq_aead_armv8.c``, and what is scrubbed after it, on any machine: cross-compiled and
run by QEMU.

Skipped where there is no cross compiler (Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross) or no qemu-user.
"""

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.plane.test_aead import check, nist_cases, one_bit_flips, random_case
from tests.rigs.c_programs import HERE, run_lines

BACKEND = "armv8-aes-256-gcm"
SOURCES = ["cq_wipe.c", "cq_aead.c", "cq_aead_armv8.c"]


def cross_compiled(directory: Path, name: str, *more: str) -> Path:
    """A script that runs the program of that name in ``tests/c`` for aarch64."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if compiler is None or qemu is None:
        pytest.skip("no cross compiler for aarch64, or no QEMU")
    csrc = HERE.parents[1] / "csrc"
    sources = [HERE / f"{name}.c", HERE / "no_libcrypto.c", *(csrc / source for source in (*SOURCES, *more))]
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread", f"-I{csrc}"]
    subprocess.run([compiler, *flags, "-o", directory / name, *sources], check=True)
    script = directory / "run"
    script.write_text(f'#!/bin/sh\nexec {qemu} "{directory}/{name}"\n')
    script.chmod(0o755)
    return script


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cross_compiled(tmp_path_factory.mktemp("aarch64"), "aead_vectors")


def test_is_selected(program: Path) -> None:
    assert run_lines(program, ["selected 1"]) == [BACKEND]


def test_decrypts_nist_vectors(program: Path) -> None:
    check(program, BACKEND, nist_cases("gcmDecrypt256.rsp"), minimum=375)


def test_encrypts_nist_vectors(program: Path) -> None:
    check(program, BACKEND, nist_cases("gcmEncryptExtIV256.rsp"), minimum=375)


def test_every_length_agrees_with_cryptography(program: Path) -> None:
    rng = random.Random("aarch64")
    lengths = [*range(600), *range(600, 4200, 7), 8192, 65503]
    cases = [random_case(rng, BACKEND, 16 if size % 2 else size % 65, size) for size in lengths]
    check(program, BACKEND, cases, minimum=len(lengths))


@pytest.mark.parametrize("size", [0, 61, 200])
def test_every_flipped_bit_is_a_forgery(program: Path, size: int) -> None:
    case = random_case(random.Random(f"aarch64 {size}"), BACKEND, 16, size)
    forgeries = [case._replace(sealed=flipped) for flipped in one_bit_flips(case.sealed)]
    forgeries += [case._replace(aad=flipped) for flipped in one_bit_flips(case.aad)]
    commands = [forgery.command("open", BACKEND) for forgery in forgeries]
    assert run_lines(program, commands) == ["FAIL"] * len(forgeries)


def test_registers_and_stack_are_scrubbed(tmp_path: Path) -> None:
    run = subprocess.run([cross_compiled(tmp_path, "test_scrub", "cq_scrub.c")], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
