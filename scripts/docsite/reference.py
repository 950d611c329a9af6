"""The pages of the reference: written from the option table, the parsers, the metrics' registry and the sources."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from manuals import commands
from manuals.commands import Argument, Command
from manuals.pages import ENVIRONMENT, EXAMPLE, STATUS, TOOL_ENVIRONMENT

from cryprq.cli.tool import command_parser
from cryprq.config.node_config import NodeConfig
from cryprq.config.options import Option, table
from cryprq.telemetry.metrics import Metrics
from docsite import events

_TOML: Final = {str: "string", int: "integer", bool: "boolean"}


def pages() -> Mapping[str, str]:
    """Markdown by the name of its file, in the order of the menu."""
    rows = list(table(NodeConfig).values())
    return {
        "cryprq-node.md": _page(_node(rows)),
        "cryprq.md": _page(_tool(commands.of(command_parser(), {}))),
        "configuration-file.md": _page(_file(rows)),
        "environment.md": _page(_environment(rows)),
        "events.md": _page(_events()),
        "metrics.md": _page(_metrics()),
    }


def _page(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _node(rows: Sequence[Option]) -> Iterator[str]:
    yield "# cryprq-node(8)"
    yield from ("", "```text", "cryprq-node [--config FILE] [option ...]", "```", "")
    yield (
        "A node: it listens for peers, dials them, or both, and makes a TUN device with routes to their networks. It"
        " runs in the foreground and logs to standard error. SIGHUP has the configuration read again, SIGTERM and"
        " SIGINT end the node."
    )
    yield from ("", "A flag beats the environment, which beats the file; allowlists are joined.", "")
    yield from ("`--check` validates everything and prints the result, `--version` says which version this is.", "")
    for row in rows:
        yield from (f"## {row.flag}", "")
        yield from ("```text", row.flag if row.metavar is None else f"{row.flag} {row.metavar}", "```", "")
        yield from (f"{_sentence(row.help)}", "")
        yield f"- Default: {row.default_text}"
        if row.env is not None:
            yield f"- Environment: `{row.env}`{f', else `{row.else_env[0]}`' if row.else_env else ''}"
        yield "- A running node takes another value over (SIGHUP)" if row.reload else "- Another value needs a restart"
        yield ""
    yield from _exit_status()


def _tool(tool: Command) -> Iterator[str]:
    yield from ("# cryprq(1)", "", "```text", "cryprq COMMAND [argument ...]", "```", "")
    yield from ("Makes identities, and asks and changes the running node.", "")
    for command in tool.walk():
        if command is tool or command.commands:
            continue
        flags = [flag for flag in command.flags if flag.name != "--help"]
        words = [f"cryprq {command.name}", *(f"[{_spelled(flag)}]" for flag in flags)]
        words += [f"[{each.name}]" if each.optional else each.name for each in command.positionals]
        yield from (f"## {command.name}", "", "```text", " ".join(words), "```", "")
        yield from (_sentence(command.help), "")
        arguments = (*command.positionals, *flags)
        yield from _table(("argument", "is"), ((f"`{_spelled(each)}`", each.help) for each in arguments if each.help))
    yield from ("## Environment", "")
    yield from _table(("variable", "is"), ((f"`{name}`", what) for name, what in TOOL_ENVIRONMENT))
    yield from _exit_status()


def _file(rows: Sequence[Option]) -> Iterator[str]:
    yield from ("# Configuration file", "")
    yield (
        "TOML, named by `--config`. The keys are the names of the options without dashes, and what is repeatable is a"
        " list. A relative path begins at the file's own directory. `cryprq-node --check --config FILE` says what is"
        " wrong with a file before a node is to use it."
    )
    yield from ("", "```toml", *EXAMPLE, "```", "")
    yield from _table(("key", "is", "default"), ((f"`{row.name}`", _kind(row), row.default_text) for row in rows))
    yield (
        "A table `[peer.NAME]` says all about one peer; it and the file for each peer are under"
        " [names](../operations.md#names-and-a-file-for-each-peer)."
    )


def _kind(row: Option) -> str:
    kind = " or ".join(_TOML[each] for each in row.toml)
    if row.toml_entry is not None:
        kind = "table, or list of strings"
    elif row.many:
        kind = f"{kind}, or list of them"
    if row.toml_columns:
        kind += "; an entry may be a table with " + ", ".join(f"`{name}`" for name in row.toml_columns)
    return f"{kind}. {_sentence(row.help)}"


def _environment(rows: Sequence[Option]) -> Iterator[str]:
    yield from ("# Environment", "", "Lists have commas between their entries. A flag goes before its variable.", "")
    told = [
        (f"`{row.env}`", f"as [{row.flag}](cryprq-node.md#{row.name.join(('--', ''))})", row.default_text)
        for row in rows
        if row.env is not None
    ]
    told += [(f"`{row.else_env[0]}`", f"where `{row.env}` is not set", "") for row in rows if row.else_env is not None]
    yield from _table(("variable", "is", "default"), told)
    yield from ("## Of a node, without a flag", "")
    yield from _table(("variable", "is"), ((f"`{name}`", what) for name, what in ENVIRONMENT))


def _events() -> Iterator[str]:
    yield from ("# Events of the log", "")
    yield (
        "Every event, with the level and the fields that a line of it can have. A line has `peer` besides, where the"
        " peer has a name, and `suppressed` where lines before it were left out. [Operations](../operations.md"
        "#observability) says which of them to look for, [debugging](../debugging.md#a-session-in-the-log) which a"
        " session is made of."
    )
    yield ""
    rows = ((f"`{name}`", ", ".join(each.levels), _names(each.fields), each.meaning) for name, each in events.all_of())
    yield from _table(("event", "level", "fields", "says"), rows)


def _metrics() -> Iterator[str]:
    yield from ("# Metrics", "")
    yield (
        "What `/metrics` has ([`--metrics-addr`](cryprq-node.md#--metrics-addr)), for Prometheus."
        " [Operations](../operations.md#observability) says what each is of use for, and has the alerts."
    )
    yield ""
    yield from _table(("metric", "type", "labels", "is"), sorted(_metric_rows()))


def _metric_rows() -> Iterator[tuple[str, ...]]:
    for family in Metrics(peers=tuple, drops=dict, offloads=dict).registry.collect():
        labels = {label for sample in family.samples for label in sample.labels} | set(
            getattr(family, "_labelnames", ())
        )
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield f"`{name}`", family.type, _names(sorted(labels - {"le"})), family.documentation


def _exit_status() -> Iterator[str]:
    yield from ("## Exit status", "")
    yield from _table(("status", "means"), STATUS)


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _spelled(each: Argument) -> str:
    return each.name if each.metavar is None or not each.name.startswith("-") else f"{each.name} {each.metavar}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table in Markdown with a line below it; nothing, if it has no rows."""
    cells = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    if not cells:
        return
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in cells:
        yield f"| {' | '.join(row)} |"
    yield ""
