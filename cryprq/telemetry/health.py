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

    def watch(self, check: Callable[[], str | None], *, restart: bool = True) -> None:
        """Adds a check that gives the reason why its part does not work, or None; it is asked at each request.
        ``restart``: a new start of the node may mend that."""
        self._checks.append((check, restart))

    def reason(self) -> str | None:
        """Why the node is not healthy, in one line; None if it is."""
        return self._first(lambda restart: True)

    def restart_reason(self) -> str | None:
        """Likewise, as far as a restart may help: what a watchdog goes by."""
        return self._first(lambda restart: restart)

    def _first(self, counts: Callable[[bool], bool]) -> str | None:
        if self._reason is not None:
            return self._reason
        reasons = (check() for check, restart in self._checks if counts(restart))
        return next((reason for reason in reasons if reason is not None), None)
