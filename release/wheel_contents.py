"""Checks that a wheel is what it is meant to be: every Python source of the package and nothing else, one extension
for its architecture that asks nothing of the host but libc, exports nothing but its own entry point, and names no
folder of the machine that built it.

    python release/wheel_contents.py WHEEL...

Needs auditwheel, which also says whether the platforms in the wheel's name are true. Exits 1 with one line per fault.
"""

import base64
import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIBC = {
    "manylinux": re.compile(r"lib(c|pthread|m|dl|rt)\.so\.\d|ld-linux-(x86-64|aarch64)\.so\.\d"),
    "musllinux": re.compile(r"libc\.(so|musl-(x86_64|aarch64)\.so\.1)"),
}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
# manylinux_2_28 or older: glibc of 2018 (Debian 10, RHEL 8); musllinux_1_2 or older: musl 1.2 (Alpine 3.13).
NEWEST = {"manylinux": (2, 28), "musllinux": (1, 2)}
TAG = re.compile(r"(?P<libc>manylinux|musllinux)_(?P<major>\d+)_(?P<minor>\d+)_(?P<machine>x86_64|aarch64)")
NAME = re.compile(r"cryprq-(?P<version>[^-]+)-cp311-abi3-(?P<tags>[\w.]+)\.whl")

DEPLOYED = ("cryprq-node.service", "prometheus/cryprq.rules.yml", "grafana/cryprq.json", "compose.yaml")


def platform_of(tag: str) -> tuple[str, tuple[int, int], str]:
    """libc, its version, machine. ValueError for a tag that is none of these."""
    match = TAG.fullmatch(tag)
    if match is None:
        raise ValueError(f"is for {tag}")
    return match["libc"], (int(match["major"]), int(match["minor"])), match["machine"]


def check_platforms(path: str, tags: list[str]) -> list[str]:
    """What auditwheel found in the extension must be no newer than any of the wheel's tags, and those old enough."""
    shown = subprocess.run(
        [sys.executable, "-m", "auditwheel", "show", "--json", path], capture_output=True, text=True, check=True
    )
    libc, needed, machine = platform_of(json.loads(shown.stdout)["overall_tag"])
    faults = []
    for tag in tags:
        named = platform_of(tag)
        if (named[0], named[2]) != (libc, machine) or not needed <= named[1] <= NEWEST[libc]:
            faults.append(f"is called {tag}, but needs {libc}_{needed[0]}_{needed[1]}_{machine}")
    return faults


def digest(data: bytes) -> str:
    """As RECORD has it (PEP 427)."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def check_record(files: dict[str, bytes], record: str) -> list[str]:
    rows = {row[0]: row[1] for row in csv.reader(io.StringIO(files[record].decode()))}
    faults = [f"{name} is not in RECORD" for name in files if name not in rows]
    faults += [f"{name} is in RECORD only" for name in rows if name not in files]
    faults += [
        f"{name} is not what RECORD says"
        for name, data in files.items()
        if name != record and rows.get(name) != digest(data)
    ]
    return faults


def unversioned(elf: Any) -> list[str]:
    """The symbols that it asks for without the version of a library."""
    symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
    section = elf.get_section_by_name(".gnu.version")  # none if no symbol has one
    versions = [each["ndx"] for each in section.iter_symbols()] if section else ["VER_NDX_GLOBAL"] * len(symbols)
    return sorted(
        symbol.name
        for symbol, version in zip(symbols, versions, strict=True)
        if symbol.name and symbol.entry.st_shndx == "SHN_UNDEF" and version in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
    )


def check_extension(data: bytes, libc: str, machine: str) -> list[str]:
    # They come with auditwheel, and nothing else here needs them.
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    elf = ELFFile(io.BytesIO(data))
    faults = []
    if elf["e_machine"] != MACHINES[machine]:
        faults.append(f"is for {elf['e_machine']}")
    dynamic, dynamic_symbols = elf.get_section_by_name(".dynamic"), elf.get_section_by_name(".dynsym")
    if not isinstance(dynamic, DynamicSection) or not isinstance(dynamic_symbols, SymbolTableSection):
        return [*faults, "is no shared library"]
    tags: Iterable[Any] = dynamic.iter_tags()  # each has attributes after its kind
    for tag in tags:
        if tag.entry.d_tag == "DT_NEEDED" and not LIBC[libc].fullmatch(tag.needed):
            faults.append(f"needs {tag.needed}")
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH", "DT_TEXTREL"):
            faults.append(f"has {tag.entry.d_tag}")
    exported = {
        symbol.name
        for symbol in dynamic_symbols.iter_symbols()
        if symbol.entry.st_shndx != "SHN_UNDEF" and symbol.entry.st_info.bind != "STB_LOCAL"
    }
    if exported != {"PyInit__fastpath"}:
        faults.append(f"exports {', '.join(sorted(exported)) or 'nothing'}")
    if libc == "manylinux":  # a linker takes a symbol that the old glibc lacks for one of the program's
        faults += [f"asks for {name} of no library" for name in unversioned(elf) if not re.match("_?Py", name)]
    if elf.get_section_by_name(".symtab") or elf.get_section_by_name(".debug_info"):
        faults.append("is not stripped")
    stack = next((s for s in elf.iter_segments() if s["p_type"] == "PT_GNU_STACK"), None)
    if stack is None or stack["p_flags"] & 1:
        faults.append("wants an executable stack")
    faults += [
        f"names {path.decode()}" for path in re.findall(rb"/(?:home|root|tmp|work|build|project)/[\w./-]+", data)
    ]
    return faults


def sources() -> set[str]:
    """What a wheel of this checkout has of the package, but for the extension. The build writes ``_build.py``."""
    found = [path for suffix in ("py", "pyi", "html") for path in (ROOT / "cryprq").rglob(f"*.{suffix}")]
    return {str(path.relative_to(ROOT)) for path in found} | {"cryprq/_build.py", "cryprq/py.typed"}


def shared(version: str) -> set[str]:
    """Man pages and completions, which pip puts below the environment; and what `cryprq deploy` prints."""
    folder = ROOT / "deploy"
    found = [path for path in (folder / "share").rglob("*") if path.is_file()]
    pages = {f"cryprq-{version}.data/data/{path.relative_to(folder)}" for path in found}
    return pages | {f"cryprq/cli/deployed/{name}" for name in DEPLOYED}


def check(path: str) -> list[str]:
    """The wheel's faults, one line each."""
    name = PurePosixPath(path).name
    match = NAME.fullmatch(name)
    if match is None:
        return [f"{name}: not a name of one of our wheels"]
    with zipfile.ZipFile(path) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist() if not entry.endswith("/")}
    info = f"cryprq-{match['version']}.dist-info"
    tags = match["tags"].split(".")
    try:
        libc, _, machine = platform_of(tags[0])
        faults = check_platforms(path, tags)
    except (ValueError, subprocess.CalledProcessError) as error:
        return [f"{name}: {error}"]
    faults += check_record(files, f"{info}/RECORD")
    wanted = sources() | shared(match["version"])
    known = wanted | {"cryprq/_fastpath.abi3.so"}
    faults += [f"holds {entry}" for entry in files if entry not in known and not entry.startswith(f"{info}/")]
    faults += [f"lacks {entry}" for entry in sorted(wanted) if entry not in files]
    if (extension := files.get("cryprq/_fastpath.abi3.so")) is None:
        faults.append("lacks the extension")
    else:
        faults += [f"the extension {fault}" for fault in check_extension(extension, libc, machine)]
    return [f"{name}: {fault}" for fault in faults]


def main(paths: list[str]) -> int:
    faults = [fault for path in paths for fault in check(path)]
    for fault in faults:
        print(f"wheel_contents: {fault}", file=sys.stderr)
    return 1 if faults or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
