"""What files of single peers say, joined with what the sources for everything give."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryprq.config.options import table
from cryprq.config.peer_files import Said
from cryprq.config.peer_words import Words
from cryprq.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class PeerJoin:
    """Adds what files of single peers say to what the sources for everything gave, as long as it fits."""

    def __init__(self, config: "type[DataclassInstance]", found: Mapping[str, Any], words: Words) -> None:
        """``config`` is the class of the configuration, ``found`` the values of the fields that somebody gave."""
        self._config = config
        self._base = dict(found)
        self._words = words
        self._rows = {row.name: (name, row) for name, row in table(config).items()}
        self.found: dict[str, Any] = dict(found)
        """The values with those of all files that fitted."""

    def accept(self, said: Said) -> None:
        """ConfigError, with file and line, if it does not fit."""
        given = self._words.resolved(said)
        values = {name: row.read(given[about]) for about, (name, row) in self._rows.items() if about in given}
        source = next(iter(said["peer-name"])).source
        (peer, name), *_ = values["peer_names"].items()
        names = self.found.get("peer_names", {})
        if peer in self.found.get("allow_peers", {}):
            known = names.get(peer)
            raise ConfigError(f"{source}: {peer} is {f'the peer {known}' if known else 'on the list'} already")
        if name in names.values():
            raise ConfigError(f"{source}: another peer is called {name} already")
        try:
            self._config(**{**self._base, **values})  # with nobody else: what is wrong is this file's
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        for field_name, value in values.items():
            join = table(self._config)[field_name].join
            if field_name not in self.found:
                self.found[field_name] = value
            elif join is not None:
                self.found[field_name] = join(value, self.found[field_name])
            else:
                self.found[field_name] += value
