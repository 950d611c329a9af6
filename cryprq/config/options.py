"""A row of the table of options: all that there is to know about one setting, wherever it is written or shown.

The table itself is a dataclass (``node_config.NodeConfig``): ``mtu: int = number("mtu", ...)`` is a field and its row.
``--help``, environment, file, ``--check``, what a reload takes over, and the README's table follow from ``table``.
As with ``dataclasses.field``, the functions that make a row have the type of the field's value.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from cryprq.config import values
from cryprq.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
C = TypeVar("C")
D = TypeVar("D")

Check = Callable[[T], str | None]
"""What is wrong with a value, as a text that begins with the value; None: nothing."""

_ROW: Final = "option"
"""Under this key a field's metadata has its row."""


@dataclass(frozen=True, slots=True)
class Given:
    """What one source says about an option."""

    source: str
    """For messages: ``--mtu``, ``CRYPRQ_MTU``, or ``FILE: mtu``."""
    texts: tuple[str, ...]
    """As the flag would spell it; exactly one unless the option is repeatable. For a switch, ``true`` or ``false``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One row. ``option``, ``number``, ``choice``, ``switch`` and ``repeatable`` make it."""

    name: str
    """``--name`` on the command line, ``name`` in the file."""
    metavar: str | None
    """What stands behind the flag; None: nothing, it is a switch."""
    env: str | None
    else_env: tuple[str, Callable[[str], str | None]] | None = None
    """Another variable, for when ``env`` is not set, and how to find a value in it."""
    help: str
    """One line of Markdown, for ``--help`` and the README."""
    default_text: str
    """The default, likewise."""
    absent: str = "none"
    """What ``--check`` says when there is no value."""
    reload: bool = False
    """Whether a running node takes a new value over; else the value needs a restart, and the log says so."""

    parse: Callable[[str], Any]
    """A text's value, or one of the values of a repeatable option. ValueError says what is wrong with the text."""
    check: Check[Any] | None = None
    """What else is wrong with one value, also with one that a Python program gives."""
    show: Callable[[Any], str] = str
    """One value as text, for ``--check``."""

    words: tuple[str, ...] = ()
    """All texts that it takes, where they can be listed."""

    many: bool = False
    split: Callable[[str], tuple[str, ...]] = lambda text: (text,)
    """The texts in an environment variable."""
    into: Callable[[Sequence[Any]], Any] = lambda items: items[0]
    """Puts what one source gives together."""
    join: Callable[[Any, Any], Any] | None = None
    """Joins what a weaker and a stronger source give; None: the strongest source alone counts."""

    toml: tuple[type, ...] = (str,)
    """The types in the file."""
    toml_entry: Callable[[str, object, Path], str] | None = None
    """The text of one entry, if the option may be a table in the file: of its key, its value, and the file's directory.
    ValueError says what the value must be."""
    toml_columns: Mapping[str, str] = field(default_factory=dict)
    """The keys that such an entry may have if it is a table itself, and the option that each of them is about."""
    is_path: bool = False
    """A relative path in a file starts at that file's directory, so that it is the same wherever the node starts."""

    @property
    def flag(self) -> str:
        return f"--{self.name}"

    def read(self, sources: Sequence[Given]) -> Any:
        """The value that the sources give, the strongest first, at least one. ConfigError names the source."""
        if self.join is None:
            return self._read_one(sources[0])
        return reduce(self.join, [self._read_one(source) for source in reversed(sources)])

    def _read_one(self, given: Given) -> Any:
        return self.into([self._read_text(given.source, text) for text in given.texts])

    def _read_text(self, source: str, text: str) -> Any:
        if not text and not self.many:
            raise ConfigError(f"{source} is empty")
        try:
            value = self.parse(text)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from None
        self._check_one(source, value)
        return value

    def _check_one(self, source: str, value: Any) -> None:
        if self.check is not None and (fault := self.check(value)) is not None:
            raise ConfigError(f"{source} {fault}")

    def validate(self, value: Any) -> None:
        """ConfigError if a node cannot have this value."""
        for item in self._items(value):
            self._check_one(self.flag, item)

    def lines(self, value: Any) -> list[str]:
        """The value for ``--check``, as ``name = text``; a line for each of several."""
        return [f"{self.name} = {text}" for text in map(self.show, self._items(value))] or [
            f"{self.name} = {self.absent}"
        ]

    def _items(self, value: Any) -> Iterable[Any]:
        if not self.many:
            return () if value is None else (value,)
        if isinstance(value, Mapping):
            return sorted(value.items())
        return sorted(value) if isinstance(value, frozenset) else cast(Iterable[Any], value)


def table(config: "DataclassInstance | type[DataclassInstance]") -> dict[str, Option]:
    """The rows of a configuration or its class, by the field that has the value; the order is that of ``--help``."""
    return {each.name: each.metadata[_ROW] for each in fields(config) if _ROW in each.metadata}


# ---- what makes a row ----


@dataclass(frozen=True, slots=True)
class _Made:
    make: Callable[[], Any]


def made_by(make: Callable[[], T]) -> T:
    """A default that is made anew for each configuration."""
    return cast(T, _Made(make))


def _field(row: Option, default: Any) -> Any:
    metadata = {_ROW: row}
    if isinstance(default, _Made):
        return field(default_factory=default.make, metadata=metadata)
    return field(default=default, metadata=metadata)


def _default_text(default: object, absent: str) -> str:
    if default is None:
        return absent
    return str(default) if isinstance(default, int) else f"`{default}`"


def option(
    name: str,
    metavar: str,
    *,
    env: str,
    help: str,
    parse: Callable[[str], T],
    default: D,
    default_text: str | None = None,
    absent: str = "none",
    check: Check[T] | None = None,
    show: Callable[[T], str] = str,
    reload: bool = False,
    is_path: bool = False,
    toml: tuple[type, ...] = (str,),
    else_env: tuple[str, Callable[[str], str | None]] | None = None,
    words: Sequence[str] = (),
) -> T | D:
    """One value of any kind. ``default_text`` where it cannot be told from the default."""
    row = Option(
        name=name,
        metavar=metavar,
        env=env,
        else_env=else_env,
        help=help,
        default_text=_default_text(default, absent) if default_text is None else default_text,
        absent=absent,
        reload=reload,
        parse=parse,
        check=check,
        show=show,
        toml=toml,
        is_path=is_path,
        words=tuple(words),
    )
    return cast(T | D, _field(row, default))


def number(
    name: str,
    *,
    env: str,
    help: str,
    low: int,
    high: int,
    default: D,
    default_text: str | None = None,
    absent: str = "none",
    reload: bool = False,
) -> int | D:
    """A whole number from ``low`` to ``high``."""
    return option(
        name,
        "N",
        env=env,
        help=f"{help}; {low} to {high}",
        parse=values.number,
        check=lambda value: None if low <= value <= high else f"{value} is out of range: {low} to {high}",
        default=default,
        default_text=default_text,
        absent=absent,
        reload=reload,
        toml=(int,),
    )


def choice(
    name: str,
    names: Sequence[str],
    *,
    env: str,
    help: str,
    default: str,
    default_text: str | None = None,
    parse: Callable[[str], str] = str.lower,
    reload: bool = False,
    else_env: tuple[str, Callable[[str], str | None]] | None = None,
) -> str:
    """One of several names."""
    return option(
        name,
        "|".join(names),
        env=env,
        else_env=else_env,
        help=help,
        parse=parse,
        check=one_of(names),
        default=default,
        default_text=default_text,
        reload=reload,
        words=names,
    )


def switch(name: str, *, env: str | None, help: str, reload: bool = False) -> bool:
    """Off unless somebody says so."""
    row = Option(
        name=name,
        metavar=None,
        env=env,
        help=help,
        default_text="off",
        reload=reload,
        parse=values.boolean,
        show=lambda value: str(value).lower(),
        toml=(bool,),
    )
    return cast(bool, _field(row, False))


def repeatable(
    name: str,
    metavar: str,
    *,
    env: str,
    help: str,
    parse: Callable[[str], T],
    into: Callable[[Sequence[T]], C],
    join: Callable[[C, C], C] | None = None,
    split: Callable[[str], tuple[str, ...]] = values.comma_list,
    default_text: str | None = None,
    absent: str = "none",
    check: Check[T] | None = None,
    show: Callable[[T], str] = str,
    reload: bool = False,
    toml_entry: Callable[[str, object, Path], str] | None = None,
    toml_columns: Mapping[str, str] | None = None,
    words: Sequence[str] = (),
) -> C:
    """Any number of values, none by default."""
    row = Option(
        name=name,
        metavar=metavar,
        env=env,
        help=f"{help}; repeatable",
        default_text=absent if default_text is None else default_text,
        absent=absent,
        reload=reload,
        parse=parse,
        check=check,
        show=show,
        many=True,
        split=split,
        into=into,
        join=join,
        toml_entry=toml_entry,
        toml_columns={} if toml_columns is None else toml_columns,
        words=tuple(words),
    )
    return cast(C, _field(row, _Made(lambda: into(()))))


def one_of(names: Sequence[str]) -> Check[str]:
    """A check that only these names pass."""
    return lambda value: None if value in names else f"{value!r} is unknown; valid are {', '.join(names)}"
