"""The Debian and Python packages in a container image, as an archive of "docker save" has them.

python3 release/image_packages.py ARCHIVE.tar.gz       prints them, one package URL a line
"""

import gzip
import json
import re
import sys
import tarfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

DPKG = "var/lib/dpkg/status"
RELEASE = "usr/lib/os-release"


class Installed(NamedTuple):
    """A Debian or Python package in an image."""

    kind: str
    name: str
    version: str
    architecture: str
    purl: str


def layers(path: Path) -> Iterator[tarfile.TarFile]:
    """The layers of an image that docker save has written, the lowest first."""
    with gzip.open(path) as stream, tarfile.open(fileobj=stream) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        for name in json.load(manifest)[0]["Layers"]:
            layer = archive.extractfile(name)
            assert layer is not None
            with tarfile.open(fileobj=layer) as opened:
                yield opened


def package_records(path: Path) -> dict[str, bytes]:
    """The files of an image that say what is installed, as its uppermost layers leave them."""
    records: dict[str, bytes] = {}
    for layer in layers(path):
        for member in layer:
            name = member.name.removeprefix("./")
            head, _, last = name.rpartition("/")
            if last.startswith(".wh."):  # deleted; .wh..wh..opq: all that was in the folder (OCI image specification)
                gone = head if last == ".wh..wh..opq" else f"{head}/{last[4:]}"
                records = {key: data for key, data in records.items() if key != gone and not key.startswith(gone + "/")}
            elif name in (DPKG, RELEASE) or name.endswith(".dist-info/METADATA"):
                stream = layer.extractfile(member)
                if stream is not None:
                    records[name] = stream.read()
    return records


def installed(path: Path) -> Iterator[Installed]:
    """What is installed in an image of Debian, or of another distribution with dpkg, or without."""
    parser = HeaderParser()
    records = package_records(path)
    lines = (line.partition("=") for line in records.pop(RELEASE, b"").decode().splitlines())
    release = {key: value.strip('"') for key, _, value in lines}
    distribution = f"{release['ID']}-{release['VERSION_ID']}" if "VERSION_ID" in release else ""
    for paragraph in records.pop(DPKG, b"").decode().split("\n\n"):
        fields = parser.parsestr(paragraph)
        if fields.get("Status") == "install ok installed":
            name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
            # "NAME (VERSION)" where the source's version is another, nothing where both are the same.
            source = re.sub(r" \((.+)\)", r"@\1", fields.get("Source", ""))
            reference = debian_purl(name, version, architecture, source, distribution)
            yield Installed("deb", name, version, architecture, reference)
    for data in records.values():
        fields = parser.parsestr(data.decode())
        name, version = fields["Name"].lower(), fields["Version"]
        yield Installed("pypi", name, version, "any", f"pkg:pypi/{quote(name)}@{quote(version)}")


def debian_purl(name: str, version: str, architecture: str, source: str, distribution: str) -> str:
    """Advisories are about a release's source packages, so scanners find none without the qualifiers."""
    qualifiers = {"arch": architecture, "distro": distribution, "upstream": source}
    listed = "&".join(f"{key}={quote(value, safe='')}" for key, value in qualifiers.items() if value)
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe='')}?{listed}"


if __name__ == "__main__":
    print(*sorted(each.purl for each in installed(Path(sys.argv[1]))), sep="\n")
