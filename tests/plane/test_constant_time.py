"""The ciphers' code, as two compilers make it, has no branch and no address that depends on a key, a nonce or a
plaintext.

Twice: valgrind follows secrets through a program that runs (``tests/c/ct_records.c``), in the back ends that it knows
the instructions of; and ``scripts/constant_time.py`` reads the machine code of all but libcrypto's, those for AArch64
as cross compilers make them. Each has to find leaks that are put in. ``make ct`` runs this file.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import ROOT
from tests.rigs.c_programs import HERE

COMPILERS = ("gcc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-fstack-protector-strong", "-fPIC", "-pthread")
"""What setup.py compiles with, as far as it changes the code."""
CROSS = {
    "gcc": ("aarch64-linux-gnu-gcc",),
    "clang": ("clang", "--target=aarch64-linux-gnu", "-isystem", "/usr/aarch64-linux-gnu/include"),
}
"""The same two compilers, for AArch64; the headers are those of Debian's libc6-dev-arm64-cross."""
OBJECTS = ("vaes512", "vaes256", "aesni", "avx512")
RUN_BY_VALGRIND = ("aesni-aes-256-gcm", "evp-aes-256-gcm", "evp-chacha20-poly1305")
SOURCES = ("cq_epoch", "cq_replay", "cq_wipe", "cq_scrub", "cq_aead*")
SEALING = "crypt(key->state, nonce, aad, aad_len, in, n, out, true, out + n);"
LEAKS = {
    "branch on the key": "if ((((const uint8_t *)key->state)[5] & 1) != 0) out[n] = 1;",
    "branch on the plaintext": "if (n != 0 && in[n / 2] > 100) out[n] = 1;",
    "address from the plaintext": "if (n != 0) out[n] = ((const uint8_t *)key->state)[in[0]];",
}

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="reads and runs x86-64's machine code")


def compile_one(compiler: str, source: Path, directory: Path, *, cross: bool = False) -> Path:
    """A source of ``csrc/``, or a variant of one that was copied together with the headers."""
    target = directory / f"{source.stem}.o"
    command = CROSS[compiler] if cross else (compiler,)
    subprocess.run([*command, *FLAGS, f"-I{source.parent}", "-c", "-o", target, source], check=True)
    return target


@pytest.fixture(scope="module", params=COMPILERS)
def objects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the objects of one compiler, whose name is that of the folder."""
    return compile_all(request.param, tmp_path_factory)


@pytest.fixture(scope="module")
def some_objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_all(COMPILERS[0], tmp_path_factory)


def compile_all(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    directory = tmp_path_factory.getbasetemp() / "objects" / compiler
    if directory.exists():
        return directory
    directory.mkdir(parents=True)
    for source in (path for name in SOURCES for path in (ROOT / "csrc").glob(f"{name}.c")):
        compile_one(compiler, source, directory)
    return directory


def leaking(compiler: str, directory: Path, name: str, leak: str, *, cross: bool = False) -> Path:
    """The object of a back end, with a line before records are sealed."""
    csrc = directory / "csrc"
    shutil.copytree(ROOT / "csrc", csrc)
    for source in (csrc / "cq_gcm_template.h", csrc / "cq_aead_avx512.c"):
        text = source.read_text()
        assert text.count(SEALING) == 1
        source.write_text(text.replace(SEALING, f"{LEAKS[leak]} {SEALING}"))
    return compile_one(compiler, csrc / f"cq_aead_{name}.c", directory, cross=cross)


# ---- by running it ----


def link(objects: Path, program: Path, instead: Path | None = None) -> Path:
    """The program, of these objects, one of them perhaps replaced."""
    if shutil.which("valgrind") is None or not Path("/usr/include/valgrind/memcheck.h").exists():
        pytest.skip("no valgrind")
    taken = [instead if instead is not None and path.name == instead.name else path for path in objects.glob("*.o")]
    options = (f"-I{ROOT / 'csrc'}", "-Wl,--wrap=cq_aead_tags_equal", "-o", program)
    subprocess.run([objects.name, *FLAGS, *options, HERE / "ct_records.c", *taken, "-lcrypto"], check=True)
    return program


def follow(program: Path, backend: str) -> tuple[int, list[str]]:
    """Exit status, and what valgrind has found, one line each."""
    run = subprocess.run(
        ["valgrind", "--quiet", "--error-exitcode=1", f"--suppressions={HERE / 'libcrypto.supp'}", program, backend],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CRYPRQ_AEAD_BACKEND": backend.partition("-")[0]},
    )
    print(run.stdout, run.stderr)
    return run.returncode, re.findall(r"(?:Conditional jump|Use of uninit).*", run.stderr)


def test_no_secret_decides_what_a_program_does(objects: Path, tmp_path: Path) -> None:
    program = link(objects, tmp_path / "ct_records")
    for backend in RUN_BY_VALGRIND:
        assert follow(program, backend) == (0, []), backend


@pytest.mark.parametrize("leak", LEAKS)
def test_running_finds_a_leak(leak: str, some_objects: Path, tmp_path: Path) -> None:
    bad = leaking(some_objects.name, tmp_path, "aesni", leak)
    status, found = follow(link(some_objects, tmp_path / "ct_records", bad), "aesni-aes-256-gcm")
    assert status == 1
    assert found


# ---- by reading it ----


def read(*objects: Path) -> tuple[int, str]:
    """Exit status and output of the script."""
    script = ROOT / "scripts" / "constant_time.py"
    run = subprocess.run([sys.executable, script, *objects], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    return run.returncode, run.stdout


def test_no_secret_decides_where_the_code_goes(objects: Path) -> None:
    status, output = read(*(objects / f"cq_aead_{name}.o" for name in OBJECTS))
    assert status == 0, output
    seen = re.findall(r": (\d+) conditional jumps, 0 faults", output)
    assert len(seen) == len(OBJECTS)
    assert min(map(int, seen)) > 20, "there are jumps, on lengths, and they were seen"


@pytest.mark.parametrize("leak", LEAKS)
def test_reading_finds_a_leak(leak: str, tmp_path: Path) -> None:
    status, output = read(leaking(COMPILERS[0], tmp_path, "avx512", leak))
    assert status == 1
    assert ("a secret address" if leak.startswith("address") else "a branch on a secret") in output


@pytest.fixture(params=COMPILERS)
def cross(request: pytest.FixtureRequest) -> str:
    """A compiler that makes code for AArch64."""
    if any(shutil.which(program) is None for program in (CROSS[request.param][0], "aarch64-linux-gnu-objdump")):
        pytest.skip(f"no {request.param} for AArch64: scripts/bootstrap.sh --tests installs it")
    return str(request.param)


def test_no_secret_decides_where_the_code_for_aarch64_goes(cross: str, tmp_path: Path) -> None:
    status, output = read(compile_one(cross, ROOT / "csrc" / "cq_aead_armv8.c", tmp_path, cross=True))
    assert status == 0, output
    (seen,) = re.findall(r": (\d+) conditional jumps, 0 faults", output)
    assert int(seen) > 20


@pytest.mark.parametrize("leak", LEAKS)
def test_reading_finds_a_leak_in_code_for_aarch64(cross: str, leak: str, tmp_path: Path) -> None:
    status, output = read(leaking(cross, tmp_path, "armv8", leak, cross=True))
    assert status == 1
    assert ("a secret address" if leak.startswith("address") else "a branch on a secret") in output
