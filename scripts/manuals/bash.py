"""Completion for bash: one function for a program, which finds the command and looks at the word before."""

from collections.abc import Iterator

from manuals.commands import Argument, Command


def completion(program: str, tool: Command) -> str:
    """The script that bash-completion loads for the program."""
    function = f"_{program.replace('-', '_')}"
    lines = [
        f"# Completion of {program} for bash. Written by scripts/make_manuals.py; do not edit.",
        "",
        f"{function}() {{",
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command='' words='' i",
        "    # Bash takes the = of --flag=value for a word.",
        "    if [[ $cur == = ]]; then",
        "        cur=''",
        "    elif [[ $prev == = ]]; then",
        "        prev=${COMP_WORDS[COMP_CWORD-2]}",
        "    fi",
        "    COMPREPLY=()",
        *_find_command(tool),
        '    case "$command:$prev" in',
        *_values(tool),
        "    esac",
        "    case $command in",
        *_words(tool),
        "    esac",
        "    mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")",
        "}",
        f"complete -F {function} {program}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _find_command(tool: Command) -> Iterator[str]:
    if not tool.commands:
        return
    yield "    for ((i = 1; i < COMP_CWORD; i++)); do"
    yield '        case "$command:${COMP_WORDS[i]}" in'
    for command in tool.walk():
        if command.commands:
            names = " | ".join(f"'{command.name}:{below.word}'" for below in command.commands)
            yield f'            {names}) command="${{command:+$command }}${{COMP_WORDS[i]}}" ;;'
    yield "        esac"
    yield "    done"


def _values(tool: Command) -> Iterator[str]:
    """What stands behind flags."""
    for command in tool.walk():
        for kind, action in (
            (_is_file, 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return'),
            (_is_other, "return"),
        ):
            if names := [f"'{command.name}:{flag.name}'" for flag in command.flags if kind(flag)]:
                yield f"        {' | '.join(names)}) {action} ;;"
        for flag in command.flags:
            if flag.words:
                choice = f"mapfile -t COMPREPLY < <(compgen -W '{' '.join(flag.words)}' -- \"$cur\"); return"
                yield f"        '{command.name}:{flag.name}') {choice} ;;"


def _words(tool: Command) -> Iterator[str]:
    """What may stand where no flag is before it."""
    for command in tool.walk():
        words = [*(below.word for below in command.commands), *(flag.name for flag in command.flags)]
        words += [word for each in command.positionals for word in each.words]
        files = ""
        if any(each.is_file for each in command.positionals):
            files = '; [[ $cur == -* ]] || { compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); }'
        yield f"        '{command.name}') words='{' '.join(words)}'{files} ;;"


def _is_file(flag: Argument) -> bool:
    return flag.is_file and not flag.words


def _is_other(flag: Argument) -> bool:
    return flag.metavar is not None and not flag.is_file and not flag.words
