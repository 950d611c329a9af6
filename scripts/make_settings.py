"""Writes README.md's table of settings from the table of options, ``cryprq.config.node_config.NodeConfig``."""

from pathlib import Path
from typing import Final

from cryprq.config.node_config import NodeConfig
from cryprq.config.options import Option, table

FILE: Final = Path(__file__).resolve().parent.parent / "README.md"
BEGIN: Final = "<!-- settings: scripts/make_settings.py writes this table -->\n\n"
END: Final = "\n<!-- end of settings -->\n"


def settings(config: type[NodeConfig] = NodeConfig) -> str:
    """The table in Markdown, a line for each option."""
    rows = [_row(option) for option in table(config).values()]
    return "\n".join(["| flag | environment | default |", "|---|---|---|", *rows]) + "\n"


def _row(option: Option) -> str:
    flag = option.flag if option.metavar is None else f"{option.flag} {option.metavar}"
    env = "" if option.env is None else f"`{option.env}`"
    if option.else_env is not None:
        env += f", else `{option.else_env[0]}`"
    cells = [f"`{flag}`: {option.help}", env, option.default_text]
    return "|" + "|".join(f" {cell} " if cell else " " for cell in (each.replace("|", r"\|") for each in cells)) + "|"


def replaced(text: str) -> str:
    """The README with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{settings()}{END}{after}"


def main() -> None:
    FILE.write_text(replaced(FILE.read_text()))


if __name__ == "__main__":
    main()
