"""Checks that csrc/ points one way: a file includes headers, and speaks of functions and structs, that stand below it.

    scripts/c_includes.py csrc

The second half is what the first alone would miss: a file that declares for itself what another one above it defines.
One line for each fault, ``FILE:LINE: what is wrong``; exit status 1 if there is any.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LAYERS: Final = (
    ("cq_wire", "cq_wipe", "cq_vnet", "cq_twin", "cq_endpoint", "cq_drop", "cq_hazard", "cq_notice", "cq_path"),
    ("cq_lane", "cq_checksum", "cq_scrub", "cq_prefix"),
    ("cq_packet", "cq_class"),
    ("cq_split", "cq_coalesce", "cq_fragment", "cq_mss", "cq_icmp", "cq_queue"),
    ("cq_stage",),
    ("cq_aead",),
    ("cq_gcm", "cq_poly1305_ifma"),
    ("cq_gcm_x86", "cq_gcm_ghash"),
    ("cq_gcm_template",),
    ("cq_aead_evp", "cq_aead_armv8", "cq_aead_aesni", "cq_aead_vaes256", "cq_aead_vaes512", "cq_aead_avx512"),
    ("cq_replay", "cq_route"),
    ("cq_epoch",),
    ("cq_table",),
    ("cq_io",),
    ("cq_send", "cq_answer"),
    ("cq_ring",),
    ("cq_worker",),
    ("cq_run",),
    ("cq_tx", "cq_rx"),
    ("cq_plane", "cq_bench"),
)
"""The lowest first. ``cq_x`` is cq_x.h and cq_x.c, which includes the header; the files of one layer don't know each
other. ``cq_x_...`` in the code belongs to the file with the longest such name."""

PLACES: Final = {name: place for place, layer in enumerate(LAYERS) for name in layer}

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]*)"', re.MULTILINE)
_SPOKEN_OF = re.compile(r"\bstruct\s+(cq_\w+)|\b(cq_\w+)\s*\(")


def owner(name: str) -> str | None:
    """The file that a function or a struct belongs to by its name, if it says so."""
    owners = [file for file in PLACES if name == file or name.startswith(f"{file}_")]
    return max(owners, key=len, default=None)


def without_comments(text: str) -> str:
    """The text with its comments blanked out, every other character in its line."""
    return _COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def includes(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every header that is included in quotes."""
    for match in _INCLUDE.finditer(text):
        yield text.count("\n", 0, match.start(1)) + 1, match[1]


def spoken_of(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every ``cq_`` function and struct."""
    for match in _SPOKEN_OF.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1] or match[2]


def where(name: str, file: str) -> str | None:
    """How one file's name stands to another's, if that is above or beside it."""
    place = PLACES.get(name, -1)  # of a file in no layer: told by itself
    if name == file or place < PLACES[file]:
        return None
    return "above" if place > PLACES[file] else "beside"


def way_back(texts: dict[str, str], start: str, goal: str) -> list[str]:
    """The files by whose includes one leads to another, both among them; empty if there is no such way."""
    ways, seen = [[start]], {start}
    for way in ways:
        if way[-1] == goal:
            return way
        following = {name for _, name in includes(texts.get(way[-1], ""))} - seen
        ways += [[*way, name] for name in sorted(following)]
        seen |= following
    return []


def include_faults(texts: dict[str, str], file: Path) -> Iterator[tuple[int, str]]:
    """What is wrong with the includes of a file."""
    for line, header in includes(texts[file.name]):
        if header not in texts:
            yield line, f"includes {header}, which is no file of csrc/"
        elif header == file.name:
            yield line, "includes itself"
        elif (at := where(Path(header).stem, file.stem)) is not None:
            circle = way_back(texts, header, file.name)
            closed = f", and closes a circle: {' -> '.join([file.name, *circle])}" if circle else ""
            yield line, f"includes {header}, which stands {at} it{closed}"
        elif not header.endswith(".h"):
            yield line, f"includes {header}, which is no header"


def name_faults(text: str, file: Path) -> Iterator[tuple[int, str]]:
    """What a file speaks of that is not below it."""
    for line, name in spoken_of(text):
        its = owner(name)
        if its is not None and (at := where(its, file.stem)) is not None:
            yield line, f"{name} belongs to {its}, which stands {at} it"


def faults(directory: Path) -> list[str]:
    """All that is wrong, in the order of files and lines."""
    files = sorted(path for path in directory.iterdir() if path.suffix in (".c", ".h"))
    texts = {file.name: without_comments(file.read_text()) for file in files}
    found = []
    for name in sorted(PLACES.keys() - {file.stem for file in files}):
        found.append(f"{Path(__file__).name}: LAYERS names {name}, which is no file of {directory}")
    for file in files:
        if file.stem not in PLACES:
            found.append(f"{file}:1: stands in no layer: give it a place in LAYERS of {Path(__file__).name}")
            continue
        wrong = [*include_faults(texts, file), *name_faults(texts[file.name], file)]
        found += [f"{file}:{line}: {what}" for line, what in sorted(wrong)]
    return found


def main() -> None:
    """Prints what is wrong; exits with 1 if anything is."""
    found = faults(Path(sys.argv[1]))
    for fault in found:
        print(fault)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
