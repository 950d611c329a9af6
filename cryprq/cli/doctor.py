"""``cryprq doctor``: what is wrong with the node and its tunnels, and what to do about it."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryprq.cli import admin_client
from cryprq.cli.paint import Paint, paint_for, plain
from cryprq.errors import ConfigError, CryprqError, MachineError
from cryprq.version import VERSION

if TYPE_CHECKING:
    from cryprq.config.node_config import NodeConfig
    from cryprq.node.findings import Finding, Report

_KINDS = {"ok": "good", "note": "faint", "fault": "bad"}


def add_command(commands: Any) -> None:
    """Declares ``doctor``."""
    doctor = commands.add_parser("doctor", help="say what is wrong with the node and its tunnels, and what to do")
    doctor.add_argument("peer", metavar="PEER", nargs="?", help="one peer: a name, an ID, or the beginning of one")
    doctor.add_argument("--json", action="store_true", help="as JSON (docs/doctor.schema.json)")
    doctor.add_argument("--config", metavar="FILE", help="the node's configuration, for while it does not run")
    doctor.add_argument("--identity", metavar="FILE", help="the node's identity [CRYPRQ_IDENTITY]")
    doctor.add_argument("--control-socket", metavar="PATH", help="the node's socket [CRYPRQ_CONTROL_SOCKET]")
    doctor.add_argument("--tun-name", metavar="NAME", help="the node by its TUN device [CRYPRQ_TUN_NAME]")


def run(arguments: argparse.Namespace, socket_path: Path, tun_name: str) -> int:
    """Looks, prints, and returns the exit status: 1 if there is a fault. ConfigError for a peer that nobody knows."""
    report = examine(arguments, socket_path, tun_name)
    if arguments.json:
        print(json.dumps(asdict(report), indent=2))
    else:
        print(render(report.findings, paint_for(sys.stdout, os.environ)))
    return 1 if report.faults else 0


def examine(arguments: argparse.Namespace, socket_path: Path, tun_name: str) -> "Report":
    """All that is found. ConfigError for a peer that nobody knows."""
    from cryprq.cli.status import completed
    from cryprq.config.paths import default_identity
    from cryprq.node.diagnosis import diagnose
    from cryprq.node.facts import Source, gather
    from cryprq.node.findings import Report

    config, fault = _configuration(arguments, os.environ)
    named = arguments.control_socket or arguments.tun_name
    if config is not None and not named and arguments.config:
        socket_path, tun_name = config.control_socket, config.tun_name
    status, not_asked = _status(socket_path)
    given = arguments.identity or os.environ.get("CRYPRQ_IDENTITY")
    identity = Path(given) if given else config.identity if config is not None else default_identity(os.environ)
    if status is not None:
        status = completed(status)
        tun_name = status["tun_name"]
    source = Source(
        tun_name=config.tun_name if config is not None and status is None and not named else tun_name,
        identity=identity,
        status=status,
        not_asked=not_asked,
        config=config,
        config_fault=fault,
    )
    try:
        facts = gather(source, arguments.peer)
    except LookupError as error:
        raise ConfigError(str(error.args[0])) from None
    findings = diagnose(facts)
    faults = sum(finding.level == "fault" for finding in findings)
    return Report(version=VERSION, time=round(time.time(), 3), running=facts.running, faults=faults, findings=findings)


def _configuration(arguments: argparse.Namespace, environ: Mapping[str, str]) -> "tuple[NodeConfig | None, str]":
    """What the node would start with, and why it would not."""
    from cryprq.config.node_config import NodeConfig
    from cryprq.config.paths import DEFAULT_CONFIG

    given = {name: text for name in ("config", "identity", "tun_name") if (text := getattr(arguments, name))}
    if "config" not in given and "CRYPRQ_CONFIG" not in environ and os.path.lexists(DEFAULT_CONFIG):
        given["config"] = str(DEFAULT_CONFIG)
    flags = [word for name, text in given.items() for word in (f"--{name.replace('_', '-')}", text)]
    try:
        return NodeConfig.load(flags, environ), ""
    except CryprqError as error:
        where = "" if "config" in given or "CRYPRQ_CONFIG" in environ else f"; there is no {DEFAULT_CONFIG} either"
        return None, f"{error}{where}"


def _status(path: Path) -> tuple[Any, str]:
    try:
        return admin_client.request(path, "status", measure=True), ""
    except admin_client.NoNode:
        return None, ""
    except MachineError as error:
        return None, str(error)


def render(findings: "Sequence[Finding]", paint: Paint = plain) -> str:
    """A line for each."""
    counted = {level: sum(each.level == level for each in findings) for level in _KINDS}
    return "\n".join([*(_line(each, paint) for each in findings), _sum(counted)])


def _line(finding: "Finding", paint: Callable[[str, str], str]) -> str:
    about = f" ({finding.about})" if finding.about else ""
    todo = f"; do: {finding.todo}" if finding.todo else ""
    return f"{paint(_KINDS[finding.level], finding.level.ljust(5))} {finding.check}{about}: {finding.text}{todo}"


def _sum(counted: Mapping[str, int]) -> str:
    if not counted["fault"]:
        return "nothing is wrong" if not counted["note"] else f"nothing is wrong; {counted['note']} to know"
    return f"{counted['fault']} to mend"
