"""One firing: a schedule's files into the queue, as one batch, once, whoever else tries the same."""

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import cast

from redis.exceptions import RedisError

from dgq.pipelines.parsing import DEFAULT_LIMITS

from ..client.client import Batch, Client
from ..client.submission import Entry, Submitted
from ..errors import BatchUnknown, CommandError, ServerError
from ..guard import explain, one_line
from ..jobs_input import find_inputs, name_inputs, read_inputs
from ..ledger.connection import server_error
from ..ledger.types import BatchInfo
from .schedules import Claim, Firing, Schedules, utc

logger = logging.getLogger("dgq.scheduler")

RETRY_S = 30.0
"""How long a firing waits after a refusal that may pass, such as a full server."""


class Stopped(Exception):
    """The scheduler ends; the firing stays begun, for another or for its next start."""


@dataclass(slots=True)
class Attempt:
    """Try to make a claimed firing, in a thread of its own. claim_s: how long a claim holds.

    Somebody else has to keep the claim alive meanwhile. stopping: ends it between two jobs.
    """

    client: Client
    schedules: Schedules
    claim: Claim
    claim_s: float
    stopping: threading.Event
    _so_far: Submitted = field(default_factory=Submitted)
    _batch_id: str | None = None

    def run(self) -> None:
        """Make the firing and record what became of it. Raises nothing."""
        try:
            outcome = self._make()
            keep_s = 0.0 if outcome.settled else RETRY_S
            recorded = self.schedules.hold(self.claim, keep_s, outcome)
        except Stopped:
            with suppress(RedisError):  # it expires
                self.schedules.hold(self.claim, 0)
            logger.info("%s: stopped; it is finished at the next start", self._name)
        except RedisError as error:
            logger.warning("%s: %s; it is tried again", self._name, self._explain(error))
        else:
            self._report(outcome, recorded=recorded)

    def _make(self) -> Firing:
        try:
            return self._submit()
        except (ServerError, BatchUnknown, RedisError) as error:
            return self._outcome("waiting", self._explain(error))
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - a schedule that cannot be made stops no other
            return self._give_up(explain(error)[0])

    def _submit(self) -> Firing:
        schedule = self.claim.known.schedule
        earlier = self._find_batch()
        if earlier is not None and earlier.sealed:
            return self._settled_by(earlier)
        late_s = self.claim.now_s - self.claim.due_s
        if earlier is None and late_s > schedule.late_s:
            before = self.claim.known.last
            why = f"; {before.message}" if before and before.message else ""
            return self._outcome("failed", f"too late by now, by {late_s:.0f} s{why}")
        files = find_inputs(schedule.files)
        limits = replace(DEFAULT_LIMITS, line_bytes=self.client.settings.max_job_bytes)
        self.client.submit_entries(
            self._until_stopped(read_inputs(files, limits=limits)),
            schedule.batch(self.claim.due_s, name_inputs(files)),
            on_created=self._remember,
            on_progress=self._note,
            on_wait=lambda why: logger.warning("%s: %s", self._name, why),
        )
        return self._outcome("submitted")

    def _give_up(self, why: str) -> Firing:
        """Settle a firing that cannot be made. What is in the queue of it already is cancelled."""
        try:
            begun = self._find_batch()
            if begun is not None and begun.sealed:
                return self._settled_by(begun)
            if begun is not None and self.schedules.hold(self.claim, self.claim_s):
                self.client.batch(begun.id).cancel()
                why = (
                    f"{why}; what was submitted of it, batch {begun.id}, is cancelled; have its "
                    "files changed meanwhile?"
                )
        except (CommandError, RedisError) as error:
            return self._outcome("waiting", self._explain(error))
        return self._outcome("failed", why)

    def _settled_by(self, batch: BatchInfo) -> Firing:
        """The firing was made, and its maker could not say so; or its batch was cancelled."""
        self._batch_id = batch.id
        self._so_far.num_jobs = batch.num_jobs
        if batch.state == "cancelled":
            return self._outcome("failed", f"batch {batch.id} was cancelled")
        return self._outcome("submitted")

    def _outcome(self, state: str, message: str = "") -> Firing:
        earlier = self.claim.known.last
        known_id = earlier.batch_id if earlier and earlier.due_s == self.claim.due_s else None
        return Firing(
            due_s=self.claim.due_s,
            state=state,  # type: ignore[arg-type]
            begun_s=self.claim.now_s,
            batch_id=self._batch_id or known_id,
            num_jobs=self._so_far.num_jobs + self._so_far.num_bad,
            message=one_line(message),
        )

    def _find_batch(self) -> BatchInfo | None:
        """What was submitted for this firing."""
        ledger = self.client.ledger
        job_key = self.claim.known.schedule.batch(self.claim.due_s).job_key or ""
        batch_id = cast("bytes | None", ledger.redis.get(ledger.keys.job_key(job_key)))
        try:
            found = ledger.info(batch_id.decode()) if batch_id else None
        except BatchUnknown:
            return None
        self._batch_id = found.id if found else None
        return found

    def _remember(self, batch: Batch) -> None:
        self._batch_id = batch.id
        self.schedules.hold(self.claim, self.claim_s, self._outcome("submitting"))

    def _note(self, so_far: Submitted) -> None:
        self._so_far = so_far

    def _until_stopped(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            if self.stopping.is_set():
                raise Stopped
            yield entry

    def _report(self, outcome: Firing, *, recorded: bool) -> None:
        if not recorded:
            logger.info("%s: its schedule was removed, or another went on with it", self._name)
        elif outcome.state == "submitted":
            bad = f", {self._so_far.num_bad:,} of them bad lines" if self._so_far.num_bad else ""
            logger.info("%s: %s, %s jobs%s", self._name, outcome.batch_id, outcome.num_jobs, bad)
        elif outcome.state == "waiting":
            logger.warning("%s: %s; tried again in %g s", self._name, outcome.message, RETRY_S)
        else:
            logger.error("%s: failed: %s", self._name, outcome.message)

    def _explain(self, error: Exception) -> str:
        if isinstance(error, RedisError):
            error = server_error(error, self.client.settings)
        return explain(error)[0]

    @property
    def _name(self) -> str:
        return f"schedule {self.claim.known.schedule.name}, firing of {utc(self.claim.due_s)}"
