"""Compares the bill of materials of a release folder with the folder: every artefact is in the bill with its SHA-256,
every file of every wheel too, and the bill names nothing else.

    python3 release/contents.py FOLDER

Standard library only, so that whoever gets a release can run it. Exits 1 with one line per fault.
"""

import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

ARTEFACTS = {"wheels": "*.whl", "sdist": "*.tar.gz", "images": "*.tar.gz"}
"""Folder and pattern of what a bill of materials has to describe."""


def sha256(element: dict[str, Any]) -> str:
    """The SHA-256 of an SPDX package or file; empty if it has none."""
    return next((c["checksumValue"] for c in element.get("checksums", []) if c["algorithm"] == "SHA256"), "")


def compare(what: str, real: dict[str, str], listed: dict[str, str]) -> list[str]:
    faults = [f"{what} {name} is not in the bill of materials" for name in sorted(real.keys() - listed.keys())]
    faults += [f"{what} {name} is in the bill of materials only" for name in sorted(listed.keys() - real.keys())]
    faults += [
        f"{what} {name} is not the one in the bill of materials"
        for name in sorted(real.keys() & listed.keys())
        if real[name] != listed[name]
    ]
    return faults


def check(folder: Path) -> list[str]:
    """The faults of a release folder, one line each."""
    bills = sorted((folder / "security").glob("sbom-*.spdx.json"))
    if len(bills) != 1:
        return [f"there are {len(bills)} bills of materials in security/"]
    bill = json.loads(bills[0].read_text())
    if bill.get("spdxVersion") != "SPDX-2.3":
        return [f"{bills[0].name} is no SPDX 2.3 document"]
    version = bills[0].name.removeprefix("sbom-").removesuffix(".spdx.json")
    faults = []
    for other in ("security/grype-{}.txt", "RELEASE_NOTES.md"):
        if not (folder / other.format(version)).is_file():
            faults.append(f"there is no {other.format(version)}")

    paths = [path for name, pattern in ARTEFACTS.items() for path in sorted((folder / name).glob(pattern))]
    faults += compare(
        "artefact",
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths},
        {package["packageFileName"]: sha256(package) for package in bill["packages"] if "packageFileName" in package},
    )
    inside = {}
    wheels = [path for path in paths if path.suffix == ".whl"]
    for path in wheels:
        if f"-{version}-" not in path.name:
            faults.append(f"{path.name} is not of version {version}")
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                inside[f"./{path.name}/{name}"] = hashlib.sha256(archive.read(name)).hexdigest()
    faults += compare("file", inside, {file["fileName"]: sha256(file) for file in bill.get("files", [])})
    for machine in ("x86_64", "aarch64"):
        if not any(path.name.endswith(f"_{machine}.whl") for path in wheels):
            faults.append(f"there is no wheel for {machine}")
    return faults


def main(folder: str) -> int:
    try:
        faults = check(Path(folder))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        faults = [f"cannot be read: {error}"]
    for fault in faults:
        print(f"release_contents: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
