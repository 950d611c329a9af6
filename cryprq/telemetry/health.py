"""Whether the node works, and if not, why: what ``/healthz`` says."""

from collections.abc import Callable


class Health:
    """Whether the node works: not before ``ready``, not after ``failed``, not while a watched part reports why."""

    def __init__(self) -> None:
        self._reason: str | None = "starting"
        self._checks: list[tuple[Callable[[], str | None], bool]] = []

    def ready(self) -> None:
        """The port is bound, the TUN is up and the workers run."""
        self._reason = None

    def failed(self, reason: str) -> None:
        """The node works no more, or is stopping; ``reason`` is one line."""
        self._reason = reason

    def watch(self, check: Callable[[], str | None], *, restart_helps: bool = True) -> None:
        """Adds a check that gives the reason why its part does not work, or None; it is asked at each request. Not
        ``restart_helps``: a new start would find the same, and the tunnels that there are would be lost for nothing."""
        self._checks.append((check, restart_helps))

    def reason(self) -> str | None:
        """Why the node is not healthy, in one line; None if it is."""
        if self._reason is not None:
            return self._reason
        return next((reason for check, _ in self._checks if (reason := check()) is not None), None)

    def wants_restart(self) -> bool:
        """Whether there is a reason that a new start may cure."""
        return self._reason is not None or any(helps and check() is not None for check, helps in self._checks)
