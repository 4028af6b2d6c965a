"""What a worker says on stderr: one line each, with the time, for people and for journals."""

import logging

from ..guard import one_line


def log_to_stderr(*, verbose: bool) -> None:
    """Our own lines from INFO on, nothing of Celery's; verbose: everything, with tracebacks."""
    logging.raiseExceptions = False  # a journal that has gone must not end a worker
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT) if verbose else _OneLine(FORMAT))
    logging.basicConfig(
        handlers=[handler], level=logging.INFO if verbose else logging.CRITICAL, force=True
    )
    logging.getLogger("dgq").setLevel(logging.DEBUG if verbose else logging.INFO)


FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _OneLine(logging.Formatter):
    """In place of a traceback, the error."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        text = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            text = f"{text}: {type(error).__name__}: {error}"
        fields = {**record.__dict__, "asctime": self.formatTime(record), "message": one_line(text)}
        return FORMAT % fields
