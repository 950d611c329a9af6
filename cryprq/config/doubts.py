"""What is allowed and hardly meant: a node says it once when it starts, and ``--check`` does.

Each doubt is one line. These are about what was written; those for which the machine must be looked at are in
``cryprq.node.doubts``.
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from cryprq.config.options import Option

_PREFIX: Final = "CRYPRQ_"
_OTHERS: Final = frozenset({"CRYPRQ_QLOG_DIR", "CRYPRQ_AEAD_BACKEND"})
"""Variables that are no options."""


def of_sources(options: Iterable[Option], arguments: Namespace, environ: Mapping[str, str]) -> Iterator[str]:
    """Flags of which all but the last are ignored, and variables that nobody reads."""
    rows = list(options)
    for option in rows:
        if option.name in arguments.given_again:
            text = vars(arguments)[option.name]
            yield f"{option.flag} is given more than once; only the last one counts, {text}"
    known = {option.env for option in rows if option.env is not None} | _OTHERS
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known:
            yield f"nobody reads the variable {name}{_suggestion(name, rows, known)}"


def _suggestion(name: str, options: Iterable[Option], known: Iterable[str]) -> str:
    word = name.removeprefix(_PREFIX).lower().replace("_", "-")
    if any(word == option.name for option in options if option.env is None):
        return f"; --{word} is a flag, and a key of the file, alone"
    names = sorted(each.removeprefix(_PREFIX) for each in known)
    similar = get_close_matches(name.removeprefix(_PREFIX), names, n=1)
    return f"; did you mean {_PREFIX}{similar[0]}?" if similar else ""
