"""Who else may touch a file: mode bits, and the access control list behind them (POSIX.1e, acl(5)).

With a list, the group bits of the mode are its mask: systemd hands a credential to a service's user as mode 0440 with a
list that lets this user read and the group not.
"""

import errno
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final

_ATTRIBUTE: Final = "system.posix_acl_access"
_VERSION: Final = 2
_HEADER: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")  # tag, permissions, ID
_USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x02, 0x04, 0x08, 0x10, 0x20
_ALL: Final = 7
_ROOT: Final = 0


def others(descriptor: int) -> str | None:
    """Somebody but root, the file's owner and the user of this process who may read or write the file, or None.
    OSError."""
    status = os.fstat(descriptor)
    data = _access_list(descriptor)
    if data is None:
        return f"mode {stat.S_IMODE(status.st_mode):04o}" if status.st_mode & 0o077 else None
    entries = list(_entries(data))
    mask = next((permissions for tag, permissions, _ in entries if tag == _MASK), _ALL)
    for tag, permissions, number in entries:
        if tag == _OTHER and permissions:
            return "everybody"
        if not permissions & mask:
            continue
        if tag == _USER and number not in (_ROOT, status.st_uid, os.geteuid()):
            return f"user {number}"
        if tag in (_GROUP_OBJ, _GROUP):
            return f"group {status.st_gid if tag == _GROUP_OBJ else number}"
    return None


def _access_list(descriptor: int) -> bytes | None:
    try:
        return os.getxattr(descriptor, _ATTRIBUTE)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):  # the mode says it all
            return None
        raise


def _entries(data: bytes) -> Iterator[tuple[int, int, int]]:
    if len(data) < _HEADER.size or _HEADER.unpack_from(data) != (_VERSION,):
        raise OSError(errno.EINVAL, "it has an access control list of an unknown form")
    try:
        yield from _ENTRY.iter_unpack(data[_HEADER.size :])
    except struct.error:
        raise OSError(errno.EINVAL, "its access control list is damaged") from None
