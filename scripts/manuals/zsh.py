"""Completion for zsh: ``_arguments`` for a program, and again for each of its commands."""

from collections.abc import Iterator

from manuals.commands import Argument, Command


def completion(program: str, tool: Command) -> str:
    """The function that compinit finds for the program."""
    lines = [
        f"#compdef {program}",
        f"# Completion of {program} for zsh. Written by scripts/make_manuals.py; do not edit.",
        "",
        "local context state state_descr line curcontext=$curcontext",
        "typeset -A opt_args",
        *_command(tool, 0),
    ]
    return "\n".join(lines) + "\n"


def _command(command: Command, depth: int) -> Iterator[str]:
    margin = "    " * depth
    specs = [_flag(flag) for flag in command.flags]
    if command.commands:
        state = f"command{depth}"
        specs += [f"'1:command:->{state}'", f"'*::argument:->{state}-arguments'"]
    specs += [_positional(each) for each in command.positionals]
    yield f"{margin}_arguments -S -C \\"
    yield from (f"{margin}    {spec} \\" for spec in specs[:-1])
    yield f"{margin}    {specs[-1]}"
    if not command.commands:
        return
    yield f"{margin}case $state in"
    yield f"{margin}    {state})"
    yield f"{margin}        local -a commands"
    yield f"{margin}        commands=("
    yield from (f"{margin}            {_quoted(f'{each.word}:{_short(each)}')}" for each in command.commands)
    yield f"{margin}        )"
    yield f"{margin}        _describe command commands"
    yield f"{margin}        ;;"
    yield f"{margin}    {state}-arguments)"
    yield f"{margin}        case $line[1] in"
    for each in command.commands:
        yield f"{margin}            {each.word})"
        yield from _command(each, depth + 4)
        yield f"{margin}                ;;"
    yield f"{margin}        esac"
    yield f"{margin}        ;;"
    yield f"{margin}esac"


def _short(command: Command) -> str:
    return command.help.partition(";")[0]


def _flag(flag: Argument) -> str:
    if flag.metavar is None:
        return _quoted(f"{flag.name}[{_escaped(flag.summary)}]")
    repeated = "*" if flag.many else ""
    return _quoted(f"{repeated}{flag.name}=[{_escaped(flag.summary)}]:{_value(flag)}")


def _positional(each: Argument) -> str:
    return _quoted(f"{'*' if each.many else ''}:{':' if each.optional and not each.many else ''}{_value(each)}")


def _value(each: Argument) -> str:
    """The message, and what does the completion."""
    message = _escaped((each.metavar or each.name).partition("|")[0])
    if each.words:
        return f"{message}:({' '.join(each.words)})"
    return f"{message}:{'_files' if each.is_file else ''}"


def _escaped(text: str) -> str:
    """Signs that mean something in a specification."""
    return "".join(f"\\{sign}" if sign in "[]:\\" else sign for sign in text)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
