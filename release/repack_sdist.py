"""Writes a source distribution again so that the same sources give the same bytes: names sorted, one owner, plain
modes, and SOURCE_DATE_EPOCH as the time of everything.

    python3 release/repack_sdist.py SDIST FOLDER
"""

import gzip
import io
import os
import sys
import tarfile
from pathlib import Path


def repack(source: Path, folder: Path, when: int) -> Path:
    """The path of the new archive."""
    target = folder / source.name
    with tarfile.open(source) as old, target.open("wb") as raw:
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=when) as packed, tarfile.open(fileobj=packed, mode="w") as new:
            for member in sorted(old.getmembers(), key=lambda member: member.name):
                clean = tarfile.TarInfo(member.name)
                clean.type, clean.size, clean.mtime = member.type, member.size, when
                clean.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
                content = old.extractfile(member) if member.isfile() else None
                new.addfile(clean, io.BytesIO(content.read()) if content else None)
    return target


if __name__ == "__main__":
    repack(Path(sys.argv[1]), Path(sys.argv[2]), int(os.environ["SOURCE_DATE_EPOCH"]))
