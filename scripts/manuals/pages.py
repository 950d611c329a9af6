"""The two pages, cryprq-node(8) and cryprq(1): what the parsers say, and what a reader looks for around it."""

from collections.abc import Sequence
from typing import Final

from cryprq.config.options import Option
from manuals import roff
from manuals.commands import Command

STATUS: Final = (
    ("0", "All is done; a node: it was told to stop."),
    ("1", "Something that the machine lacks: a right, a device, a port, a node that answers."),
    ("2", "A mistake in what was written: on the command line, in the environment, in the file."),
)
EXAMPLE: Final = (
    'listen = "/ip6/::/udp/9999/quic-v1"',
    'tun-address = ["10.77.0.1/24", "fd77::1/64"]',
    'metrics-addr = "127.0.0.1:9464"',
    "",
    "[allow-peer]",
    "QmDIALER = []                                     # gets an address",
    'QmBRANCH = ["10.77.0.20/32", "192.168.9.0/24"]    # owns these',
)
ENVIRONMENT: Final = (
    ("CRYPRQ_AEAD_BACKEND", "Makes the ciphers run on this back end, for tests."),
    ("CRYPRQ_QLOG_DIR", "A directory for a qlog file of each control connection, for debugging."),
)
TOOL_ENVIRONMENT: Final = (
    ("CRYPRQ_CONTROL_SOCKET", "As --control-socket."),
    ("CRYPRQ_TUN_NAME", "As --tun-name."),
    ("CRYPRQ_IDENTITY", "The identity file, where none is named."),
)


def node_page(node: Command, options: Sequence[Option]) -> str:
    """cryprq-node(8)."""
    body = [
        *roff.heading("SYNOPSIS"),
        r"\fBcryprq\-node\fR [\fB\-\-config\fR \fIFILE\fR] [\fIoption\fR ...]",
        *roff.heading("DESCRIPTION"),
        *roff.prose(
            "A node of CrypRQ, a post-quantum VPN: it listens for peers, dials them, or both, and makes a TUN device"
            " with routes to their networks. It runs in the foreground, and logs to standard error."
        ),
        *roff.paragraph(
            "SIGHUP has the configuration read again: a peer that is no longer allowed is cut off at once, and the"
            " others notice nothing. SIGTERM and SIGINT tell the peers, and end the node."
        ),
        *roff.heading("OPTIONS"),
        *roff.prose(
            "A flag beats the environment, which beats the file; allowlists are joined. In brackets stand the"
            " default, and the variable."
        ),
        *roff.listed(node.flags),
        *roff.heading("CONFIGURATION FILE"),
        *roff.prose("TOML. Its keys are the names of the options without dashes; what is repeatable is a list."),
        *roff.example(EXAMPLE),
        *roff.heading("ENVIRONMENT"),
        *roff.prose("Lists have commas between their entries."),
    ]
    for option in options:
        if option.env is not None:
            body += roff.item(rf"\fB{roff.text(option.env)}\fR", f"As {option.flag}.")
        if option.else_env is not None:
            body += roff.item(rf"\fB{roff.text(option.else_env[0])}\fR", f"Where {option.env} is not set.")
    for name, what in ENVIRONMENT:
        body += roff.item(rf"\fB{roff.text(name)}\fR", what)
    body += roff.heading("FILES")
    body += roff.item(r"\fI/var/lib/cryprq/identity\fR", "Who this node is; secret. Leases of addresses lie beside it.")
    body += roff.item(r"\fI/run/cryprq/cryprq0.sock\fR", "The socket at which cryprq(1) asks the node.")
    body += _end(("cryprq", 1))
    return roff.page("cryprq-node", "8", "node of a post-quantum VPN", body)


def tool_page(tool: Command) -> str:
    """cryprq(1)."""
    body = [
        *roff.heading("SYNOPSIS"),
        r"\fBcryprq\fR \fIcommand\fR [\fIargument\fR ...]",
        *roff.heading("DESCRIPTION"),
        *roff.prose(f"{tool.help} The node itself is cryprq-node(8)."),
        *roff.heading("COMMANDS"),
    ]
    for command in tool.walk():
        if command is tool or command.commands:
            continue
        body += [*roff.subheading(command.name), roff.synopsis("cryprq", command)]
        body += roff.paragraph(f"{command.help[:1].upper()}{command.help[1:]}.")
        body += roff.listed((*command.positionals, *(flag for flag in command.flags if flag.name != "--help")))
    body += roff.heading("ENVIRONMENT")
    for name, what in TOOL_ENVIRONMENT:
        body += roff.item(rf"\fB{roff.text(name)}\fR", what)
    body += _end(("cryprq-node", 8))
    return roff.page("cryprq", "1", "makes identities for a post-quantum VPN, and asks its running node", body)


def _end(other: tuple[str, int]) -> list[str]:
    lines = roff.heading("EXIT STATUS")
    for status, what in STATUS:
        lines += roff.item(rf"\fB{status}\fR", what)
    lines += roff.heading("SEE ALSO")
    return [*lines, rf"\fB{roff.text(other[0])}\fR({other[1]})"]
