"""Whether the server was there at all times: if not, silence is no sign of death.

Leases run out on the server's clock, which goes on while nobody can reach the server. Whoever is back
first would then take every shard of those who are still on their way, and count a death for each. So
a worker that has noticed a gap claims, for one more lease, only what was silent before it as well.
"""

import time


class Contact:
    """When the server was last heard of. To be told at least four times in each lease.

    A process that was itself frozen sees a gap too; it then waits in vain, which does no harm.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._heard_s = time.monotonic()
        self._gap_s = 0.0
        self._since_s = self._heard_s

    def heard(self) -> None:
        """The server has answered."""
        now_s = time.monotonic()
        gap_s, self._heard_s = now_s - self._heard_s, now_s
        if gap_s > self._lease_s / 2:
            self._gap_s, self._since_s = gap_s, now_s

    def silence_s(self) -> float:
        """For how long a holder must have been silent to be taken for dead."""
        since_s = time.monotonic() - self._since_s
        excused_s = self._gap_s + since_s if self._gap_s and since_s < self._lease_s else 0.0
        return self._lease_s + excused_s
