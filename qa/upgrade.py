"""``qa/upgrade_test.sh``: a tunnel is upgraded under traffic, one end after the other, and rolled back.

Both versions are installed from wheels into folders of their own, and a link says which is in use, as on a real host.
Without ``--from`` the old version is this checkout as it is built in place; without ``--to`` the new one is the old
one under the next number.
"""

import argparse
import base64
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

from lab import ROOT, nodes, sandbox
from lab.nodes import Node
from qa.flows import Conversation, Probe, ping, transfer
from qa.report import Report
from qa.scenarios import check_health, pair, restart
from qa.site import GATEWAY, Site, inside


def checkout_wheel(directory: Path, version: str | None = None) -> Path:
    """A wheel of this checkout as it is built in place, under another version if one is given."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = version or project["version"]
    info = f"cryprq-{version}.dist-info"
    names = [*ROOT.glob("cryprq/**/*.py"), *ROOT.glob("cryprq/*.so")]
    files = {str(path.relative_to(ROOT)): path.read_bytes() for path in names}
    scripts = "\n".join(f"{name} = {target}" for name, target in project["scripts"].items())
    files |= {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: cryprq\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: cryprq-qa\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}\n".encode(),
    }
    return write_wheel(directory / f"cryprq-{version}-py3-none-any.whl", files, info)


def write_wheel(path: Path, files: dict[str, bytes], info: str) -> Path:
    """A wheel with these files and the RECORD of them."""
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            wheel.writestr(name, data)
    return path


def renumbered(wheel: Path, directory: Path) -> Path:
    """The same wheel under the next number: its version with ``.post1`` behind it."""
    name, version, *tags = wheel.stem.split("-")
    after = f"{version}.post1"
    old, new = f"{name}-{version}.dist-info", f"{name}-{after}.dist-info"
    files = {}
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            if entry != f"{old}/RECORD":
                files[entry.replace(old, new)] = archive.read(entry)
    for file, line in ((f"{new}/METADATA", "\nVersion: {}\n"), ("cryprq/_build.py", '\nVERSION = "{}"\n')):
        before = line.format(version).encode()
        if before not in files[file]:
            raise ValueError(f"{wheel.name}: {file} does not say {version}")
        files[file] = files[file].replace(before, line.format(after).encode(), 1)
    return write_wheel(directory / f"{'-'.join((name, after, *tags))}.whl", files, new)


def install(wheel: Path, prefix: Path) -> str:
    """Installs a wheel into ``prefix``/VERSION, and returns the version. What it needs is this environment's."""
    version = wheel.name.split("-")[1]
    home = prefix / version
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--disable-pip-version-check", str(wheel)], check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return version


def use(prefix: Path, version: str) -> None:
    """Makes ``prefix``/current point to a version, in one step."""
    link = prefix / "next"
    link.symlink_to(version)
    link.replace(prefix / "current")


def version_of(node: Node) -> str:
    """What a running node says it is."""
    return next(dict(labels)["version"] for name, labels in node.metrics() if name == "build_info")


def smoke(report: Report, listener: Node, dialer: Node, name: str) -> None:
    """The smoke test of docs/operations.md: health, peers, traffic."""
    check_health(report, listener, dialer)
    for node in (listener, dialer):
        report.equal(f"{name}: current_peers of {node.name}", node.metric("current_peers"), 1)
    ping(dialer.namespace, GATEWAY, report, f"{name}: dialer to listener")
    ping(listener.namespace, inside(dialer), report, f"{name}: listener to dialer")
    transfer(listener.namespace, dialer.namespace, GATEWAY, 2 << 20, report, name)


def upgrade_and_rollback(site: Site, report: Report, prefix: Path, old: str, new: str) -> None:
    """Old with traffic; new, one end after the other; old again. A TCP connection lives through all of it."""
    use(prefix, old)
    listener, dialer = pair(site, notify=True)
    here, there = listener.namespace, dialer.namespace
    address = inside(dialer)
    identities = [node.identity.read_bytes() for node in (listener, dialer)]
    site.metrics("before")
    smoke(report, listener, dialer, f"both {old}")
    with (
        Probe(there, here, GATEWAY) as inward,
        Probe(here, there, address, 5901) as outward,
        Conversation(there, here, GATEWAY) as conversation,
    ):
        for version in (new, old):
            use(prefix, version)
            for node in (listener, dialer):
                restart(site, report, node, (inward, outward))
                report.measured[f"{node.name} to {version}"] = report.measured.pop(f"restart of {node.name}")
                report.equal(f"version of {node.name}", version_of(node), version)
                report.check(f"the TCP connection goes on after {node.name} to {version}", conversation.wait())
                smoke(report, listener, dialer, f"{node.name} at {version}")
    report.check(
        "one TCP connection lived through upgrade and rollback, every answer right",
        conversation.error is None, answers=conversation.answers, error=conversation.error,
    )  # fmt: skip
    report.equal("the dialer's address", inside(dialer), address)
    unchanged = [node.identity.read_bytes() for node in (listener, dialer)] == identities
    report.check("identities are those from before", unchanged)
    site.metrics("after")


def wrong(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the call, or None."""
    for wheel in (arguments.old, arguments.new):
        if wheel is not None and not zipfile.is_zipfile(wheel):
            return f"{wheel} is no wheel"
    if arguments.output is not None and arguments.output.exists():
        return f"{arguments.output} exists: the evidence of another run is not overwritten"
    return None


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="upgrade_test.sh", description="Upgrade under traffic, and rollback.")
    parser.add_argument("--from", dest="old", type=Path, metavar="WHEEL", help="the version in use")
    parser.add_argument("--to", dest="new", type=Path, metavar="WHEEL", help="the version to upgrade to")
    parser.add_argument("--output", type=Path, metavar="DIR", help="evidence goes here; it must not exist yet")
    arguments = parser.parse_args(argv)
    if (fault := wrong(arguments)) is not None:
        print(f"upgrade_test: {fault}", file=sys.stderr)
        return 2
    if (reason := sandbox.enter()) is not None:
        print(f"upgrade_test: no network namespaces: {reason}", file=sys.stderr)
        return 2
    report = Report("upgrade-rollback", "netns", None)
    with tempfile.TemporaryDirectory(prefix="cryprq-up-") as name:
        directory = Path(name)
        prefix, wheels, lab = (directory / each for each in ("opt", "wheels", "lab"))
        for each in (prefix, wheels, lab):
            each.mkdir()
        wheel = arguments.old or checkout_wheel(wheels)
        old = install(wheel, prefix)
        new = install(arguments.new or renumbered(wheel, wheels), prefix)
        nodes.PROGRAMS = prefix / "current" / "bin"
        print(f"upgrade_test: {old} to {new} and back ...", flush=True)
        try:
            with Site(lab) as site:
                upgrade_and_rollback(site, report, prefix, old, new)
        except Exception as error:
            report.error = f"{type(error).__name__}: {error}"
        if arguments.output is not None:
            arguments.output.mkdir(parents=True)
            site.keep_evidence(arguments.output)
            report.builds = site.builds
            report.write(arguments.output / "verdict.json")
    for key, value in report.measured.items():
        print(f"    {key}: {value}")
    for line in report.failures():
        print(f"    {line}")
    print(f"upgrade_test: {'passed' if report.passed else 'FAILED'}, {len(report.checks)} checks")
    return 0 if report.passed else 1


if __name__ == "__main__":
    # The nodes and pip must see what is installed, not this checkout.
    os.environ.pop("PYTHONPATH", None)
    sys.exit(main(sys.argv[1:]))
