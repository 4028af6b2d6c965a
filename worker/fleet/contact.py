"""Whether the server was there at all times: if not, silence is no sign of death.

Leases run out on the server's clock, which goes on while nobody can reach the server. Whoever is back
first would then take every shard of those who are still on their way, and count a death for each. So
a worker whose questions went unanswered for a while claims, for one more lease, only what had been
silent before as well.
"""

import time


class Contact:
    """Since when the server does not answer, and for how long it did not. Thread-safe enough.

    Only questions count: a process that was itself frozen, and asked nothing, has missed nothing.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._asked_s: float | None = None
        self._lost_s = self._found_s = -float("inf")

    def asked(self) -> None:
        """The server is about to be asked something; to be said four times in each lease."""
        if self._asked_s is None:
            self._asked_s = time.monotonic()

    def heard(self) -> None:
        """It has answered."""
        now_s, asked_s = time.monotonic(), self._asked_s
        self._asked_s = None
        if asked_s is not None and now_s - asked_s > self._lease_s / 4:
            self._lost_s, self._found_s = asked_s, now_s

    def silence_s(self) -> float:
        """For how long a holder must have been silent to be taken for dead."""
        now_s = time.monotonic()
        excused_s = now_s - self._lost_s if now_s - self._found_s < self._lease_s else 0.0
        return self._lease_s + excused_s
