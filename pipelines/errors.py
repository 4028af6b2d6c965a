"""The errors of the pipelines: a job that is not one, and an answer that does not do."""

from dgq.engine.errors import DgqError


class JobError(DgqError):
    """A job that cannot be run as it stands; the text is meant for whoever wrote the job.

    field: the path of the offending field ("slots.date.format"), or None.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        """Keep the sentence and the field that it is about."""
        super().__init__(message)
        self.message = message
        self.field = field


class DecodingError(DgqError):
    """A checkpoint's dgq.json that cannot be used."""


class Rejected(Exception):
    """An answer that failed a check; caught by the asking loop, which asks again.

    check: the name of the check. detail: what was wrong, for the result's row.
    """

    def __init__(self, check: str, detail: str) -> None:
        """Keep the check's name and what was wrong."""
        super().__init__(f"{check}: {detail}")
        self.check = check
        self.detail = detail
