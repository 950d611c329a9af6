"""The two ways in which a program of this package gives up, each with one clear line and an exit status."""


class CryprqError(Exception):
    """An error whose text is one line that says what is wrong and what to do; ``exit_status`` is the program's."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class MachineError(CryprqError):
    """The machine refuses: a port in use, no right to make a TUN, an unreadable file. Exit status 1."""


class ConfigError(CryprqError):
    """The configuration is wrong: a bad flag, environment variable or file entry. Exit status 2."""

    exit_status = 2
