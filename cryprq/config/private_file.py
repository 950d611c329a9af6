"""Files that hold a secret: read only if nobody else may touch them, made so that nothing is ever replaced."""

import errno
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from cryprq.config import file_access


class NotPrivate(Exception):
    """The file must not be used; the message is one line that says why and what to do."""


def read(path: Path, size_max: int, noun: str, maker: str, recognise: Callable[[bytearray], bool]) -> bytearray:
    """The contents, to be wiped; of a longer file one byte more than ``size_max``. OSError, or NotPrivate, in which
    ``noun`` says what the file is and ``maker`` what makes one.

    A symbolic link is followed; what counts is the file that was opened: a regular one, of this user or root (root may
    use any user's), with no access for anybody else. Whoever names another file that ``recognise`` does not take for
    one is not told to change that one's mode.
    """
    # O_NONBLOCK: a FIFO in the file's place must not hang the start.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotPrivate(f"the {noun} {path} is not a regular file")
        data = bytearray(size_max + 1)
        size = os.readv(descriptor, [data])
        del data[size:]
        fault = None
        if (who := file_access.others(descriptor)) is not None:
            remedy = f"chmod 600 {path}" if who.startswith("mode") else f"setfacl -b {path} && chmod 600 {path}"
            fault = f"the {noun} {path} is open to others ({who}); if it is still secret, {remedy}"
            if not recognise(data):
                fault = f"{path} is no {noun}; {maker} makes one"
        elif os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
            fault = f"the {noun} {path} belongs to another user (uid {status.st_uid})"
        if fault is not None:
            data[:] = bytes(len(data))
            raise NotPrivate(fault)
        return data
    finally:
        os.close(descriptor)


def write_new(path: Path, data: bytes | bytearray) -> None:
    """Makes a file of mode 0600 that appears under its name complete and on the disk, or not at all. OSError, also if
    the name is taken."""
    temporary = _written(path, data, 0o600)
    try:
        os.link(temporary, path)  # unlike a rename, this fails if the name is taken, even by a dangling link
    finally:
        os.unlink(temporary)
    _sync_directory(path.parent)


def replace(path: Path, data: bytes | bytearray) -> None:
    """Puts other contents in the place of a file that is there, complete and on the disk, or not at all; its mode
    stays. OSError."""
    temporary = _written(path, data, stat.S_IMODE(path.stat().st_mode))
    try:
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_directory(path.parent)


def _written(path: Path, data: bytes | bytearray, mode: int) -> Path:
    """A new file beside that path, on the disk."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            os.fchmod(descriptor, mode)  # whatever the umask took away
            file.write(data)
            os.fsync(descriptor)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remedy(error: OSError) -> str:
    """What to do about it, for the end of a message."""
    return "; run as root, or name another file" if error.errno in (errno.EACCES, errno.EPERM) else ""
