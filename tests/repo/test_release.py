"""scripts/verify_release.sh and the parts that it is made of, on a small release folder with made-up wheels."""

import gzip
import hashlib
import io
import json
import runpy
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT

RELEASE = ROOT / "release"
VERSION = "1.2.3"


def digest(data: bytes, algorithm: str) -> dict[str, str]:
    return {"algorithm": algorithm.upper(), "checksumValue": hashlib.new(algorithm, data).hexdigest()}


def wheel(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def seal(folder: Path) -> None:
    """Writes checksums.txt, as the release script does."""
    done = subprocess.run([RELEASE / "checksums.sh", folder], capture_output=True, text=True, check=True)
    (folder / "checksums.txt").write_text(done.stdout)


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "scripts" / "verify_release.sh", folder], capture_output=True, text=True)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release folder that is as it should be: two wheels, a source distribution, a bill that describes them."""
    folder = tmp_path / f"release-{VERSION}"
    artefacts, inside = [], []
    for machine in ("x86_64", "aarch64"):
        name, files = f"cryprq-{VERSION}-cp311-abi3-manylinux_2_28_{machine}.whl", {"cryprq/a.py": machine.encode()}
        artefacts.append((f"wheels/{name}", wheel(files)))
        inside += [
            {"fileName": f"./{name}/{path}", "checksums": [digest(data, "sha1"), digest(data, "sha256")]}
            for path, data in files.items()
        ]
    artefacts.append((f"sdist/cryprq-{VERSION}.tar.gz", b"sources"))
    packages: list[dict[str, Any]] = [{"name": "openssl"}]  # linked in: not a file of the folder
    packages += [
        {"packageFileName": Path(path).name, "checksums": [digest(data, "sha256")]} for path, data in artefacts
    ]
    bill = {"spdxVersion": "SPDX-2.3", "packages": packages, "files": inside}
    texts = {
        f"security/sbom-{VERSION}.spdx.json": json.dumps(bill),
        f"security/grype-{VERSION}.txt": "clear\n",
        "RELEASE_NOTES.md": "# Notes\n",
        "qa/verdict with a space.json": "{}",
    }
    for path, data in [*artefacts, *((path, text.encode()) for path, text in texts.items())]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    seal(folder)
    return folder


def edit_bill(folder: Path, change: Any) -> None:
    path = folder / "security" / f"sbom-{VERSION}.spdx.json"
    bill = json.loads(path.read_text())
    change(bill)
    path.write_text(json.dumps(bill))
    seal(folder)


def test_whole_release_passes(release: Path) -> None:
    done = verify(release)
    assert (done.returncode, done.stderr) == (0, "")
    assert "7 files" in done.stdout


def test_one_changed_byte_of_any_file_fails(release: Path) -> None:
    for path in sorted(path for path in release.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for position in {len(data) // 2, len(data) - 1}:
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            assert verify(release).returncode == 1, f"{path} at {position}"
        path.write_bytes(data)
    assert verify(release).returncode == 0


def test_another_spelling_of_a_checksum_fails(release: Path) -> None:
    path = release / "checksums.txt"
    path.write_text(path.read_text().replace("  ", " *", 1))  # sha256sum --check takes it
    assert verify(release).returncode == 1


def test_file_too_many_or_too_few_fails(release: Path) -> None:
    extra = release / "wheels" / "extra"
    extra.touch()
    assert verify(release).returncode == 1
    extra.unlink()
    extra.symlink_to("/etc/passwd")
    assert verify(release).returncode == 1
    extra.unlink()
    (release / "RELEASE_NOTES.md").unlink()
    assert verify(release).returncode == 1


def test_wheel_that_the_bill_does_not_know_fails_with_good_checksums(release: Path) -> None:
    (release / "wheels" / f"cryprq-{VERSION}-cp311-abi3-musllinux_1_2_x86_64.whl").write_bytes(wheel({}))
    seal(release)
    done = verify(release)
    assert done.returncode == 1
    assert "is not in the bill of materials" in done.stderr


def test_wheel_content_that_differs_from_the_bill_fails(release: Path) -> None:
    edit_bill(release, lambda bill: bill["files"][0]["checksums"][1].update(checksumValue="0" * 64))
    assert "is not the one in the bill of materials" in verify(release).stderr


def test_bill_that_names_more_than_there_is_fails(release: Path) -> None:
    edit_bill(release, lambda bill: bill["packages"].append({"packageFileName": "b.whl", "checksums": []}))
    assert "in the bill of materials only" in verify(release).stderr


def test_release_without_an_architecture_fails(release: Path) -> None:
    name = f"cryprq-{VERSION}-cp311-abi3-manylinux_2_28_aarch64.whl"
    (release / "wheels" / name).unlink()

    def forget(bill: dict[str, Any]) -> None:
        bill["packages"] = [p for p in bill["packages"] if p.get("packageFileName") != name]
        bill["files"] = [f for f in bill["files"] if name not in f["fileName"]]

    edit_bill(release, forget)
    assert verify(release).stderr == "release_contents: there is no wheel for aarch64\n"


def test_release_without_a_scan_fails(release: Path) -> None:
    (release / "security" / f"grype-{VERSION}.txt").unlink()
    seal(release)
    assert "there is no security/grype" in verify(release).stderr


# ---- notes and source distribution ----

notes = runpy.run_path(str(RELEASE / "notes.py"))["notes"]
repack = runpy.run_path(str(RELEASE / "repack_sdist.py"))["repack"]

CHANGELOG = """# Changelog

## [Unreleased]

New.

## [1.1.0] - 2026-01-02

Old.

### Fixed

- It.
"""


def test_notes_are_the_section_of_the_version() -> None:
    assert notes("1.1.0", CHANGELOG) == "# CrypRQ 1.1.0, 2026-01-02\n\nOld.\n\n### Fixed\n\n- It.\n"


def test_notes_of_a_version_without_section_are_what_is_unreleased() -> None:
    assert notes("1.2.0", CHANGELOG) == "# CrypRQ 1.2.0\n\nNew.\n"


def test_notes_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"1\.2\.0"):
        notes("1.2.0", CHANGELOG.replace("New.\n", ""))


def test_repacked_sources_depend_on_content_alone(tmp_path: Path) -> None:
    packed = []
    for index, names in enumerate((("a", "b"), ("b", "a"))):
        source = tmp_path / str(index) / "x-1.tar.gz"
        source.parent.mkdir()
        with tarfile.open(source, "w:gz") as archive:
            for name in names:
                info = tarfile.TarInfo(f"x-1/{name}")
                info.size, info.mtime, info.uid, info.mode = 1, index * 1000, index, 0o644 | index << 1
                archive.addfile(info, io.BytesIO(name.encode()))
        target = tmp_path / f"out{index}"
        target.mkdir()
        packed.append(repack(source, target, 1_700_000_000).read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed[0]))) as archive:
        assert [(m.name, m.mode, m.uid, m.mtime) for m in archive] == [
            ("x-1/a", 0o644, 0, 1_700_000_000),
            ("x-1/b", 0o644, 0, 1_700_000_000),
        ]


# ---- the scan without Grype ----

judge = runpy.run_path(str(RELEASE / "scan_fallback.py"))["judge"]
OWN = {"name": "cryprq", "skip_reason": "not published"}
CLEAR = {"name": "a", "version": "1", "vulns": []}
FOUND = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "others", "status", "title"),
    [
        ([OWN, CLEAR], [], 0, "scanned by pip-audit"),
        ([OWN, CLEAR, FOUND], [], 1, "scanned by pip-audit"),
        ([OWN, FOUND, SKIPPED], [], 1, "scanned in part"),
        ([OWN, CLEAR, SKIPPED], [], 3, "scanned in part"),
        ([OWN, CLEAR], ["pkg:generic/openssl@3.5.5"], 3, "scanned in part"),
        ([OWN, SKIPPED], [], 3, "not scanned"),
        ([OWN], [], 3, "not scanned"),
    ],
)
def test_what_was_not_looked_at_is_not_clear(
    dependencies: list[dict[str, Any]], others: list[str], status: int, title: str
) -> None:
    result, lines = judge(dependencies, others)
    assert result == status
    assert lines[0].startswith(title)
    assert len(lines) == 1 + len(dependencies) - 1 + len(others)
