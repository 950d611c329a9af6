"""Writes an archive of "docker save" again so that the same contents give the same bytes: SOURCE_DATE_EPOCH stands
where the time of the build was, and nothing is left of the engine that built it. "docker load" takes it.

    docker save IMAGE | python3 release/repack_image.py ARCHIVE.tar.gz
"""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

CONFIG = ("architecture", "config", "history", "os", "rootfs", "variant")
"""What the image specification knows; the rest is the engine's."""
PER_BUILD = ("Hostname", "Domainname", "Image")
"""The name of the container that a step ran in, and the image before the last step."""


def add(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes], when: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, when
    archive.addfile(info, content)


def clean_config(config: dict[str, Any], diff_ids: list[str], when: int) -> bytes:
    date = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    clean = {key: config[key] for key in CONFIG if key in config} | {"created": date}
    clean["config"] = {key: value for key, value in clean["config"].items() if key not in PER_BUILD}
    clean["history"] = [step | {"created": date} for step in clean["history"]]
    clean["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    return json.dumps(clean, sort_keys=True).encode()


def clean_layer(source: IO[bytes], target: IO[bytes], when: int) -> None:
    """The same files in the same order, none newer than ``when``."""
    with (
        tarfile.open(fileobj=source) as old,
        tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            member.mtime = min(int(member.mtime), when)
            member.uname = member.gname = ""
            # Attributes such as file capabilities stay, times of access and change go.
            member.pax_headers = {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")}
            new.addfile(member, old.extractfile(member) if member.isreg() else None)


def repack(source: Path, target: Path, when: int) -> None:
    """Images of one tag or none: the first of the archive."""
    with (
        tarfile.open(source) as old,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", 9, raw, when) as packed,
        tarfile.open(fileobj=packed, mode="w") as new,
    ):

        def member(name: str) -> IO[bytes]:
            found = old.extractfile(name)
            assert found is not None, name
            return found

        manifest = json.load(member("manifest.json"))[0]
        diff_ids = []
        for name in manifest["Layers"]:
            with tempfile.TemporaryFile() as layer:
                clean_layer(member(name), layer, when)
                size = layer.tell()
                layer.seek(0)
                digest = hashlib.file_digest(layer, "sha256").hexdigest()
                if f"sha256:{digest}" not in diff_ids:
                    layer.seek(0)
                    add(new, f"{digest}.tar", size, layer, when)
                diff_ids.append(f"sha256:{digest}")
        config = clean_config(json.load(member(manifest["Config"])), diff_ids, when)
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        add(new, name, len(config), io.BytesIO(config), when)
        layers = [f"{digest.removeprefix('sha256:')}.tar" for digest in diff_ids]
        contents = json.dumps([{"Config": name, "RepoTags": manifest["RepoTags"], "Layers": layers}]).encode()
        add(new, "manifest.json", len(contents), io.BytesIO(contents), when)


def main(target: str) -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar") as saved:  # the manifest, which says the order, comes last
        while block := sys.stdin.buffer.read(1 << 20):
            saved.write(block)
        saved.flush()
        repack(Path(saved.name), Path(target), int(os.environ["SOURCE_DATE_EPOCH"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
