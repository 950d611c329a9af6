"""A token bucket: how often something may be done in the long run, and how often at once."""


class TokenBucket:
    """``rate`` tokens a second, up to ``burst`` saved up. Times are of one clock, whichever it is."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated: float | None = None

    def take(self, now: float) -> bool:
        """Takes one token if there is one."""
        if self.saved(now) < 1:
            return False
        self._tokens -= 1
        return True

    def saved(self, now: float) -> float:
        """How many tokens there are."""
        if self._updated is not None and now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        return self._tokens
