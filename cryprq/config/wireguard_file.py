"""A configuration file of WireGuard, as ``wg`` and ``wg-quick`` read it: sections, settings, and the lines they are on.

Lenient in what both programs are lenient in (letter case, blanks, ``#`` anywhere), and in what people publish: a byte
order mark, lines that end as on Windows, sections that are missing. Nothing of a line is ever repeated in a message
but words that cannot be a key.
"""

import codecs
import re
from dataclasses import dataclass, field
from typing import Final

from cryprq.errors import ConfigError

SIZE_MAX: Final = 1 << 20
"""Bytes of a file: some ten thousand peers."""

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9 _-]{0,31}", re.ASCII)
"""What may be shown of a line: a key of WireGuard has 44 characters."""
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{42,44}=?", re.ASCII)
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


@dataclass(frozen=True, slots=True, order=True)
class Remark:
    """What is to be said about a line of the file."""

    line: int
    """From 1 on; 0: about the file as a whole."""
    text: str


@dataclass(frozen=True, slots=True)
class Setting:
    """``Key = value``."""

    line: int
    key: str
    """In lower case."""
    value: str


@dataclass(slots=True)
class Section:
    """``[Interface]`` or ``[Peer]`` and what stands under it."""

    line: int
    settings: list[Setting] = field(default_factory=list)
    above: list[str] = field(default_factory=list)
    """The comments right above its first line, as they are behind the sign."""
    comments: list[str] = field(default_factory=list)
    """The comments in it."""

    def all(self, key: str) -> list[Setting]:
        """Every setting of that key."""
        return [setting for setting in self.settings if setting.key == key]

    def last(self, key: str) -> Setting | None:
        """The setting that counts where WireGuard takes only one."""
        return next(reversed(self.all(key)), None)

    def items(self, key: str) -> list[Setting]:
        """The parts of a list with commas, over all lines that have that key; empty parts are none."""
        return [
            Setting(setting.line, key, part.strip())
            for setting in self.all(key)
            for part in setting.value.split(",")
            if part.strip()
        ]


@dataclass(slots=True)
class WireGuardFile:
    """All of a file. Without an ``[Interface]``, that section is there and empty."""

    interface: Section
    peers: list[Section]
    remarks: list[Remark]


def parse(data: bytes) -> WireGuardFile:
    """ConfigError if there is no section in it: that is no such file. What else cannot be read is a remark."""
    result = WireGuardFile(Section(0), [], [])
    current: Section | None = None
    above: list[str] = []  # comments that may belong to the section that follows
    for number, line in enumerate(_text(data).split("\n"), 1):
        content, sign, comment = (part.strip() for part in line.partition("#"))
        if not content:
            # An empty line ends what is said of the section before; a comment after it belongs to the next one.
            if sign and comment:
                above.append(comment)
            elif not sign:
                above.clear()
            continue
        if content.startswith("["):
            current = _section(result, number, content)
            if current is not None:
                current.above += above
        elif current is None:
            result.remarks.append(Remark(number, "stands in no section, which WireGuard would not take"))
        elif (setting := _setting(number, content)) is None:
            result.remarks.append(Remark(number, "is no KEY = VALUE"))
        else:
            current.settings.append(setting)
            current.comments += above
        if comment and current is not None:
            current.comments.append(comment)
        above.clear()
    if current is None and not result.peers and not result.interface.line:
        raise ConfigError("has neither [Interface] nor [Peer]: it is no configuration file of WireGuard")
    return result


def shown(text: str) -> str:
    """A value for a message, unless it might be a key that somebody has put in the wrong place."""
    return "(a key)" if _KEY.search(text) else repr(text if len(text) <= 64 else f"{text[:61]}...")


def _text(data: bytes) -> str:
    """Without the mark at its beginning. What is not UTF-8 can only be a comment, or is found wrong where it is."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.removeprefix(mark).decode(encoding, errors="replace")
    return data.decode(errors="replace")


def _section(file: WireGuardFile, number: int, content: str) -> Section | None:
    """The section that begins here; None if nobody knows it. A second [Interface] goes on with the first."""
    name = content.removeprefix("[").removesuffix("]").strip()
    if content.endswith("]") and name.lower() == "interface":
        file.interface.line = file.interface.line or number
        return file.interface
    if content.endswith("]") and name.lower() == "peer":
        file.peers.append(Section(number))
        return file.peers[-1]
    what = f"[{name}]" if _WORD.fullmatch(name) else "this section"
    file.remarks.append(Remark(number, f"{what} is nothing that WireGuard has; what stands under it is left out"))
    return Section(number)  # read, and forgotten


def _setting(number: int, content: str) -> Setting | None:
    key, equals, value = (part.strip() for part in content.partition("="))
    if not equals or not _WORD.fullmatch(key):
        return None
    return Setting(number, key.lower(), value)
