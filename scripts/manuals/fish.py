"""Completion for fish: a line for each command and flag, with the condition under which it may stand there."""

from manuals.commands import Argument, Command


def completion(program: str, tool: Command) -> str:
    """The file that fish loads for the program."""
    lines = [
        f"# Completion of {program} for fish. Written by scripts/make_manuals.py; do not edit.",
        "",
        f"complete -c {program} -f",
    ]
    for command in tool.walk():
        condition = _condition(command, tool)
        for below in command.commands:
            lines.append(f"complete -c {program}{condition} -a {below.word} -d {_quoted(below.help.partition(';')[0])}")
        for flag in command.flags:
            lines.append(f"complete -c {program}{condition}{_flag(flag)}")
        for each in command.positionals:
            if each.is_file:
                lines.append(f"complete -c {program}{condition} -F")
            if each.words:
                lines.append(f"complete -c {program}{condition} -a {_quoted(' '.join(each.words))}")
    return "\n".join(lines) + "\n"


def _condition(command: Command, tool: Command) -> str:
    """Where the command's words may stand: its own words are there, and none of a command below it."""
    if not tool.commands:
        return ""
    parts = [f"__fish_seen_subcommand_from {word}" for word in command.name.split()]
    if command.commands:
        parts.append(f"not __fish_seen_subcommand_from {' '.join(below.word for below in command.commands)}")
    return f" -n {_quoted('; and '.join(parts))}"


def _flag(flag: Argument) -> str:
    words = [f" -l {flag.name.removeprefix('--')}"]
    if flag.metavar is not None:
        words.append("-r -F" if flag.is_file and not flag.words else "-x")
        if flag.words:
            words.append(f"-a {_quoted(' '.join(flag.words))}")
    words.append(f"-d {_quoted(flag.summary)}")
    return " ".join(words)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
