"""The file with the invitation that a new node was given: one token (``cryprq.protocol.invitation``), a secret until it
is used."""

from pathlib import Path
from typing import Final

from cryprq.config import private_file
from cryprq.errors import MachineError
from cryprq.protocol.invitation import PREFIX, TEXT_MAX, Token
from cryprq.protocol.key_schedule import wipe

_MAKER: Final = "`cryprq join`"


class InvitationError(MachineError):
    """An invitation cannot be read or kept; the message is one line that names the file."""


def load_invitation(path: Path) -> Token | None:
    """The token in the file; None if there is no file: it is deleted when the invitation has been used.
    InvitationError if it is damaged, or open to anyone but its owner (as for the identity file)."""
    try:
        data = private_file.read(
            path, TEXT_MAX + 1, "invitation", _MAKER, lambda data: data.startswith(PREFIX.encode())
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvitationError(
            f"cannot read the invitation {path}: {error.strerror}{private_file.remedy(error)}"
        ) from None
    except private_file.NotPrivate as error:
        raise InvitationError(str(error)) from None
    try:
        return Token.parse(data.decode("ascii", "replace"))
    except ValueError as error:
        raise InvitationError(f"{path}: {error}") from None
    finally:
        wipe(data)


def keep_invitation(path: Path, token: Token) -> None:
    """Writes the file, for its owner alone. InvitationError; also if there is one."""
    try:
        private_file.write_new(path, token.spell().encode() + b"\n")
    except FileExistsError:
        raise InvitationError(f"{path} holds another invitation, not used yet; delete it to use this one") from None
    except OSError as error:
        raise InvitationError(
            f"cannot write the invitation {path}: {error.strerror}{private_file.remedy(error)}"
        ) from None


def forget_invitation(path: Path) -> None:
    """Deletes the file: it was used. InvitationError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InvitationError(f"cannot delete the used invitation {path}: {error.strerror}") from None
