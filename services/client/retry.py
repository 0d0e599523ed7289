"""When to try again: a value that the caller chooses, never a hidden habit."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .errors import DeadlineUnmeetable, StarlingError, Superseded, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Tries again within the call's deadline, no sooner than the node asked for.

    Only refusals are tried again: those that carry a retry delay, and an unreachable target.
    Predictions change nothing on the node, so a second one does no harm; a step of a sequence is sent again only when
    the node says that it did not run. A superseded frame is never
    sent again; one whose deadline the node could not meet only while the time that it needs is left.

    Attributes:
        attempts_max: tries in all, >= 1.
        backoff_s: shortest wait after the first try, in seconds; doubles with each further one.
        backoff_s_max: longest wait that is not asked for by the node, in seconds.
    """

    attempts_max: int = 3
    backoff_s: float = 0.02
    backoff_s_max: float = 1.0

    def __post_init__(self) -> None:
        """Refuses values that make no policy.

        Raises:
            ValueError: says which and why.
        """
        if self.attempts_max < 1:
            raise ValueError(f"attempts_max is {self.attempts_max}; expected >= 1")
        if not 0 < self.backoff_s <= self.backoff_s_max:
            raise ValueError(f"backoff_s is {self.backoff_s}; expected above 0 and at most {self.backoff_s_max}")

    def get_wait_s(
        self, error: StarlingError, *, attempt: int, left_s: float, rng: Random, is_step: bool = False
    ) -> float | None:
        """Returns how long to wait before the next try, or None to give up.

        Args:
            error: what the last try raised.
            attempt: number of that try, 1 and up.
            left_s: seconds until the deadline.
            rng: spreads the waits, so that a fleet does not come back all at once.
            is_step: whether the request is a step of a sequence, which must not be taken twice.
        """
        asked_s = error.retry_delay_s
        if attempt >= self.attempts_max or isinstance(error, Superseded):
            return None
        if asked_s is None and not isinstance(error, Unavailable):
            return None
        if is_step and not error.reason:
            return None  # nobody said that it did not run: the answer may have been lost
        needed_s = (error.needed_s or 0.0) if isinstance(error, DeadlineUnmeetable) else 0.0
        backoff_s = min(self.backoff_s_max, self.backoff_s * 2 ** (attempt - 1))
        wait_s = max(asked_s or 0.0, backoff_s) + rng.uniform(0.0, backoff_s / 2)
        return wait_s if wait_s + needed_s < left_s else None
