"""What is allowed and hardly meant: a node says it once when it starts, and ``--check`` does.

Each doubt is one line. These are about what was written; those for which the machine must be looked at are in
``cryprq.node.doubts``.
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from cryprq.config import peer_words, values
from cryprq.config.nearest import nearest
from cryprq.config.options import Given, Option

_PREFIX: Final = "CRYPRQ_"
_NETWORKS: Final = ("allow-peer", "route")
"""The options that have networks in them, alone or as ID=CIDR,CIDR."""
_OTHERS: Final = frozenset({"CRYPRQ_QLOG_DIR", "CRYPRQ_AEAD_BACKEND"})
"""Variables that are no options."""


def of_sources(
    options: Iterable[Option], arguments: Namespace, environ: Mapping[str, str], given: Mapping[str, Sequence[Given]]
) -> Iterator[str]:
    """Flags of which all but the last are ignored, variables that nobody reads, and networks written with the address
    of a host in them. ``given`` is what ``sources.collect`` has found."""
    rows = list(options)
    for option in rows:
        if option.name in arguments.given_again:
            text = vars(arguments)[option.name]
            yield f"{option.flag} is given more than once; only the last one counts, {text}"
    known = {option.env for option in rows if option.env is not None} | _OTHERS
    for name in sorted(environ):
        if name.startswith(_PREFIX) and name not in known:
            yield f"nobody reads the variable {name}{_suggestion(name, rows, known)}"

    for option in rows:
        if option.name in _NETWORKS:
            yield from _narrowed(given.get(option.name, ())[: 1 if option.join is None else None])


def of_peers(found: Mapping[str, Any]) -> Iterator[str]:
    """IDs that are much like another one. ``found`` has the values of the fields that somebody gave."""
    dialled = (address.peer_id for address in found.get("peers", ()) if address.peer_id is not None)
    for one, other in peer_words.look_alikes(dict.fromkeys((*found.get("allow_peers", ()), *dialled))):
        yield f"the peers {one} and {other} differ by a character or two: is one of them mistyped?"


def _narrowed(sources: Iterable[Given]) -> Iterator[str]:
    for source in sources:
        for cidr in (cidr.strip() for text in source.texts for cidr in text.rpartition("=")[2].split(",")):
            if (meant := values.narrowed(cidr)) is not None:
                yield f"{source.source}: {cidr} is an address in {meant}, which is taken as a whole"


def _suggestion(name: str, options: Iterable[Option], known: Iterable[str]) -> str:
    word = name.removeprefix(_PREFIX).lower().replace("_", "-")
    if any(word == option.name for option in options if option.env is None):
        return f"; --{word} is a flag, and a key of the file, alone"
    names = sorted(each.removeprefix(_PREFIX) for each in known)
    similar = nearest(name.removeprefix(_PREFIX), names)
    return "" if similar is None else f"; did you mean {_PREFIX}{similar}?"
