"""Whether the node works, and if not, why: what ``/healthz`` says."""

from collections.abc import Callable


class Health:
    """Whether the node works: not before ``ready``, not after ``failed``, not while a watched part reports why."""

    def __init__(self) -> None:
        self._reason: str | None = "starting"
        self._checks: list[Callable[[], str | None]] = []

    def ready(self) -> None:
        """The port is bound, the TUN is up and the workers run."""
        self._reason = None

    def failed(self, reason: str) -> None:
        """The node works no more, or is stopping; ``reason`` is one line."""
        self._reason = reason

    def watch(self, check: Callable[[], str | None]) -> None:
        """Adds a check that gives the reason why its part has died, or None; it is asked at each request."""
        self._checks.append(check)

    def reason(self) -> str | None:
        """Why the node is not healthy, in one line; None if it is."""
        if self._reason is not None:
            return self._reason
        return next((reason for check in self._checks if (reason := check()) is not None), None)
