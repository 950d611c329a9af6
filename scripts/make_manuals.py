"""Writes man pages and shell completions under deploy/share, from the table of options and the tool's parser."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from manuals import bash, commands, fish, pages, zsh

from cryprq.cli.tool import command_parser
from cryprq.config.command_line import parser
from cryprq.config.node_config import NodeConfig
from cryprq.config.options import table

FOLDER: Final = Path(__file__).resolve().parent.parent / "deploy" / "share"
"""Laid out as ``/usr/share``: a wheel and a package have it as it is."""


def files() -> Mapping[str, str]:
    """All that there is to be written, by its name in ``FOLDER``."""
    rows = list(table(NodeConfig).values())
    node = commands.of(parser(NodeConfig), {row.flag: row.words for row in rows})
    tool = commands.of(command_parser(), {})
    result = {"man/man8/cryprq-node.8": pages.node_page(node, rows), "man/man1/cryprq.1": pages.tool_page(tool)}
    for program, command in (("cryprq-node", node), ("cryprq", tool)):
        result[f"bash-completion/completions/{program}"] = bash.completion(program, command)
        result[f"zsh/site-functions/_{program}"] = zsh.completion(program, command)
        result[f"fish/vendor_completions.d/{program}.fish"] = fish.completion(program, command)
    return result


def main() -> None:
    for name, text in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
