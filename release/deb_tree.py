"""Lays out what the Debian package installs, out of wheels: our own, and those that it needs for each Python that the
package serves, all of one architecture. Standard library only.

    python3 release/deb_tree.py FOLDER WHEEL...        prints the package's dependencies as substitution variables

Two wheels of one project may differ in nothing but their extensions, so that several Pythons share the rest. What pip
writes or needs (RECORD, entry points) and what only compilers read is left out, and so are the other projects' programs and pages. ValueError for wheels that do not fit.
"""

import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

ROOT = Path(__file__).resolve().parent.parent
LIBRARY: Final = "usr/lib/cryprq"
UNIT: Final = "usr/lib/systemd/system/cryprq-node.service"
PROGRAMS: Final = {"cryprq": "cryprq.cli.tool", "cryprq-node": "cryprq.cli.node"}
SHARED: Final = {
    "share/man/": "usr/share/man/",
    "share/bash-completion/": "usr/share/bash-completion/",
    "share/fish/": "usr/share/fish/",
    "share/zsh/site-functions/": "usr/share/zsh/vendor-completions/",
}
"""Where Debian has what our wheel puts under ``share``."""
LAUNCHER: Final = """\
#!/usr/bin/python3 -IS
# Isolated (-I), and without any site-packages (-S): of this machine's Python only the standard library.
import sys

sys.path.insert(0, "/{library}")
from {module} import main

sys.exit(main())
"""
REPAIR: Final = """\
# What root has put into the state directory.
ExecStartPre=+-/usr/bin/systemd-tmpfiles --create cryprq.conf
"""
COMPILED: Final = re.compile(r"\.(pyx|pxd|pxi|c|h|cpp)$")
EXTENSION: Final = re.compile(r"\.cpython-3(?P<minor>\d+)-[\w-]+\.so$")
LIBC: Final = re.compile(r"lib(c|m|dl|rt|pthread)\.so\.\d|ld-linux-(x86-64|aarch64)\.so\.\d")


def place(name: str) -> str | None:
    """Where a file of a wheel is installed; None: nowhere."""
    path = PurePosixPath(name)
    top = path.parts[0]
    if top.endswith(".dist-info"):
        return f"{LIBRARY}/{name}" if path.name == "METADATA" or "licenses" in path.parts else None
    if not top.endswith(".data"):
        return None if COMPILED.search(name) else f"{LIBRARY}/{name}"
    inner = name.removeprefix(f"{top}/data/")
    if not top.startswith("cryprq-"):
        return None
    return next((new + inner[len(old) :] for old, new in SHARED.items() if inner.startswith(old)), None)


def unpack(folder: Path, wheels: list[Path]) -> None:
    """Every file of the wheels, in its place."""
    for wheel in sorted(wheels):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                target = place(name)
                if not name.endswith("/") and target is not None:
                    write(folder / target, archive.read(name))


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """ValueError if the file is there already and another one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes() != data:
        raise ValueError(f"two wheels have a different {path.name}")
    path.write_bytes(data)
    path.chmod(mode)


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """ValueError if something that is to be replaced is not there."""
    for old, new in changes:
        if old not in text:
            raise ValueError(f"the unit has no {old!r}")
        text = text.replace(old, new)
    return text


def unit(text: str) -> str:
    """deploy/cryprq-node.service for programs in /usr/bin, and a user that the package makes: files that root adds to
    the state directory become that user's at each start, and there is something that purge can remove."""
    _, _, body = text.partition("\n[Unit]\n")
    dynamic = body[body.index("# An unprivileged user that exists while") : body.index("StateDirectory=")]
    name = "Description=CrypRQ post-quantum VPN node\n"
    return replaced(
        f"[Unit]\n{body}",
        (name, f"{name}Documentation=man:cryprq-node(8) file:///usr/share/doc/cryprq/README.Debian\n"),
        ("/opt/cryprq/current/bin/", "/usr/bin/"),
        (dynamic, "# With the one capability that a TUN device needs.\nUser=cryprq\nGroup=cryprq\n"),
        ("ExecStart=", f"{REPAIR}ExecStart="),
    )


def python_depends(minors: set[int]) -> str:
    """On one of these Pythons (3.MINOR), in the words of a control file."""
    known = sorted(minors)
    bounds = [f"python3 (>= 3.{known[0]}~)"]
    bounds += [
        f"python3 (<< 3.{low + 1}) | python3 (>= 3.{high}~)"
        for low, high in zip(known, known[1:], strict=False)
        if high > low + 1
    ]
    return ", ".join([*bounds, f"python3 (<< 3.{known[-1] + 1})"])


def served(folder: Path) -> set[int]:
    """The Pythons for which every extension of a single Python is there. ValueError if there is none."""
    found: dict[str, set[int]] = {}
    for path in (folder / LIBRARY).rglob("*.so"):
        if match := EXTENSION.search(path.name):
            found.setdefault(str(path.with_name(path.name[: match.start()])), set()).add(int(match["minor"]))
    if not found:
        raise ValueError("no wheel is for one Python alone: what the package serves cannot be told")
    common = set.intersection(*found.values())
    if any(minors != common for minors in found.values()):
        raise ValueError("not every wheel is there for each Python")
    return common


def library_depends(folder: Path) -> str:
    """On the C library, in the newest version of which a symbol is asked for, and on libgcc. By readelf, which reads
    either architecture: what dpkg-shlibdeps says depends on the libraries of the machine that builds."""
    newest, gcc = (0, 0), (0, 0)
    for path in sorted((folder / LIBRARY).rglob("*.so*")):
        said = subprocess.run(
            ["readelf", "--wide", "--dynamic", "--version-info", path], capture_output=True, text=True, check=True
        ).stdout
        for name in re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", said):
            if not LIBC.fullmatch(name) and name != "libgcc_s.so.1":
                raise ValueError(f"{path.name} needs {name}")
        newest = max([newest, *versions("GLIBC", said)])
        gcc = max([gcc, *versions("GCC", said)])
    depends = ["libc6 (>= {}.{})".format(*newest)]
    if gcc > (0, 0):
        depends.append("libgcc-s1 (>= {}.{})".format(*gcc))
    return ", ".join(depends)


def versions(library: str, said: str) -> list[tuple[int, int]]:
    """The versions of a library's symbols that readelf has named."""
    return [(int(major), int(minor)) for major, minor in re.findall(rf"\b{library}_(\d+)\.(\d+)", said)]


def lay_out(folder: Path, wheels: list[Path]) -> None:
    """The whole tree, but for what debhelper adds. ValueError."""
    unpack(folder, wheels)
    for name, module in PROGRAMS.items():
        write(folder / "usr/bin" / name, LAUNCHER.format(library=LIBRARY, module=module).encode(), 0o755)
    write(folder / UNIT, unit((ROOT / "deploy" / "cryprq-node.service").read_text()).encode())
    write(folder / "etc/cryprq/node.toml", (ROOT / "release" / "debian" / "node.toml").read_bytes())
    rtupdate = (ROOT / "release" / "debian" / "cryprq.rtupdate").read_bytes()
    write(folder / "usr/share/python3/runtime.d/cryprq.rtupdate", rtupdate, 0o755)


def main(folder: str, *wheels: str) -> int:
    try:
        lay_out(Path(folder), [Path(wheel) for wheel in wheels])
        print(f"python:Depends={python_depends(served(Path(folder)))}")
        print(f"shlibs:Depends={library_depends(Path(folder))}")
    except (OSError, ValueError, zipfile.BadZipFile, subprocess.CalledProcessError) as error:
        print(f"deb_tree: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
