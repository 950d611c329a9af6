"""release/wheel_contents.py: a wheel that is as it should be passes, and each fault is named in a line of its own."""

import base64
import hashlib
import json
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT

SCRIPT = ROOT / "release" / "wheel_contents.py"
NAME = "cryprq-1.2.3-cp311-abi3-manylinux_2_28_x86_64.whl"
INFO = "cryprq-1.2.3.dist-info"
EXTENSION = "cryprq/_fastpath.abi3.so"
contents = runpy.run_path(str(SCRIPT))
FILES = dict.fromkeys(
    [*sorted(contents["sources"]() | contents["shared"]("1.2.3")), f"{INFO}/METADATA", EXTENSION], b"#\n"
)


def record(files: dict[str, bytes]) -> bytes:
    """RECORD as the packaging specification has it, not by the script's own function."""
    rows = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        rows.append(f"{name},sha256={digest},{len(data)}")
    return "\n".join([*rows, f"{INFO}/RECORD,,", ""]).encode()


def wheel(folder: Path, files: dict[str, bytes], name: str = NAME) -> Path:
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in files.items():
            archive.writestr(zipfile.ZipInfo(entry), data)
    return path


class Check:
    """The script's check, with what auditwheel would say, and with an extension that it has nothing against."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.needed = "manylinux_2_17_x86_64"
        scope = contents["check"].__globals__
        monkeypatch.setitem(scope, "check_extension", lambda data, libc, machine: [])
        monkeypatch.setattr(subprocess, "run", self._auditwheel)

    def _auditwheel(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:4] == [sys.executable, "-m", "auditwheel", "show"]
        return subprocess.CompletedProcess(command, 0, json.dumps({"overall_tag": self.needed}), "")

    def __call__(self, files: dict[str, bytes], name: str = NAME, recorded: bytes | None = None) -> list[str]:
        recorded = record(files) if recorded is None else recorded
        path = wheel(self.folder, files | {f"{INFO}/RECORD": recorded}, name)
        found: list[str] = contents["check"](str(path))
        assert all(line.startswith(f"{name}: ") for line in found)
        return [line.removeprefix(f"{name}: ") for line in found]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    return Check(tmp_path, monkeypatch)


def test_whole_wheel_passes(check: Check) -> None:
    assert check(FILES) == []


def test_file_that_is_no_part_of_the_package_is_a_fault(check: Check) -> None:
    for stray in ("cryprq/_fastpath.c", "cryprq/secret.key", "tests/test_a.py", "cryprq/cli/deep/a.py"):
        assert check(FILES | {stray: b""}) == [f"holds {stray}"]


def test_missing_file_is_a_fault(check: Check) -> None:
    for name in (
        "cryprq-1.2.3.data/data/share/man/man8/cryprq-node.8",
        "cryprq/_build.py",
        "cryprq/cli/deployed/cryprq-node.service",
        "cryprq/cli/node.py",
        "cryprq/py.typed",
    ):
        assert check({key: data for key, data in FILES.items() if key != name}) == [f"lacks {name}"]
    assert check({key: data for key, data in FILES.items() if key != EXTENSION}) == ["lacks the extension"]


def test_record_that_differs_from_the_files_is_a_fault(check: Check) -> None:
    changed = FILES | {"cryprq/__init__.py": b"other"}
    assert check(changed, recorded=record(FILES)) == ["cryprq/__init__.py is not what RECORD says"]
    more = FILES | {f"{INFO}/more": b""}
    unrecorded = check(more, recorded=record(FILES))
    assert unrecorded == [
        "cryprq-1.2.3.dist-info/more is not in RECORD",
        "cryprq-1.2.3.dist-info/more is not what RECORD says",
    ]
    assert check(FILES, recorded=record(more)) == [f"{INFO}/more is in RECORD only"]


@pytest.mark.parametrize(
    "name",
    [
        "cryprq-1.2.3-py3-none-any.whl",
        "cryprq-1.2.3-cp312-cp312-manylinux_2_28_x86_64.whl",
        "other-1.2.3-cp311-abi3-manylinux_2_28_x86_64.whl",
    ],
)
def test_name_of_another_kind_of_wheel_is_a_fault(check: Check, name: str) -> None:
    assert check(FILES, name) == ["not a name of one of our wheels"]


@pytest.mark.parametrize(
    ("tag", "needed", "fault"),
    [
        ("manylinux_2_28_x86_64", "manylinux_2_28_x86_64", None),
        ("musllinux_1_2_aarch64", "musllinux_1_1_aarch64", None),
        ("manylinux_2_17_x86_64.manylinux_2_28_x86_64", "manylinux_2_17_x86_64", None),
        ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "needs manylinux_2_28_x86_64"),  # newer than it says
        ("manylinux_2_35_x86_64", "manylinux_2_28_x86_64", "needs manylinux_2_28_x86_64"),  # for too few machines
        ("manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "needs manylinux_2_28_aarch64"),
        ("musllinux_1_2_x86_64", "manylinux_2_17_x86_64", "needs manylinux_2_17_x86_64"),
        ("manylinux_2_28_x86_64", "linux_x86_64", "is for linux_x86_64"),
        ("macosx_11_0_arm64", "manylinux_2_17_x86_64", "is for macosx_11_0_arm64"),
    ],
)
def test_platforms_have_to_be_true_and_old_enough(check: Check, tag: str, needed: str, fault: str | None) -> None:
    check.needed = needed
    found = check(FILES, f"cryprq-1.2.3-cp311-abi3-{tag}.whl")
    assert [fault in line for line in found] == [True] if fault else found == []


def test_nothing_to_check_is_a_fault() -> None:
    assert contents["main"]([]) == 1


# ---- the extension ----

EXPORTED = '__attribute__((visibility("default"))) '
SOURCE = "#include <unistd.h>\n" + EXPORTED + "void *PyInit__fastpath(void) { return (void *)(long)getpid(); }\n"


def compile_library(folder: Path, source: str, *flags: str) -> bytes:
    (folder / "a.c").write_text(source)
    out = folder / "a.so"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-nostartfiles", "-fvisibility=hidden"]
    subprocess.run([*command, "-o", out, folder / "a.c", *flags], check=True, capture_output=True, timeout=60)
    return out.read_bytes()


@pytest.mark.parametrize(
    ("source", "flags", "faults"),
    [
        (SOURCE, ["-s"], []),
        (SOURCE + EXPORTED + "int more;", ["-s"], ["exports PyInit__fastpath, more"]),
        (SOURCE.replace(EXPORTED, ""), ["-s"], ["exports nothing"]),
        (SOURCE, ["-s", "-Wl,--no-as-needed", "-lcrypto"], ["needs libcrypto.so."]),
        (SOURCE, ["-s", "-Wl,-rpath,/opt/lib"], ["has DT_RUNPATH"]),
        (SOURCE, ["-s", "-Wl,-rpath,/opt/lib", "-Wl,--disable-new-dtags"], ["has DT_RPATH"]),
        (SOURCE, ["-s", "-Wl,-z,execstack"], ["wants an executable stack"]),
        (SOURCE, [], ["is not stripped"]),
        (SOURCE, ["-c"], ["is no shared library"]),
        ("int a_new_one(void);\n" + SOURCE.replace("getpid", "a_new_one"), ["-s"], ["asks for a_new_one of no"]),
        (SOURCE.replace("getpid()", '"/home/somebody/file.c"'), ["-s"], ["names /home/somebody/file.c"]),
    ],
)  # fmt: skip
def test_faults_of_an_extension(tmp_path: Path, source: str, flags: list[str], faults: list[str]) -> None:
    pytest.importorskip("elftools", reason="no pyelftools (it comes with auditwheel, release/tools.sh)")
    data = compile_library(tmp_path, source, *flags)
    found = contents["check_extension"](data, "manylinux", "x86_64")
    assert len(found) == len(faults), found
    assert all(each.startswith(fault) for each, fault in zip(found, faults, strict=True)), found
    assert contents["check_extension"](data, "manylinux", "aarch64")[0] == "is for EM_X86_64"


def test_output_is_one_line_for_each_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = wheel(tmp_path, {}, "cryprq-1.2.3-py3-none-any.whl")
    assert contents["main"]([str(path)]) == 1
    assert capsys.readouterr().err == "wheel_contents: cryprq-1.2.3-py3-none-any.whl: not a name of one of our wheels\n"
