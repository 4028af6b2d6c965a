import pytest

from dgq.engine.errors import CheckpointError
from dgq.worker import exit_codes
from dgq.worker.errors import UsageFault
from dgq.worker.guard import one_line, run_guarded


def raising(error):
    def body():
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageFault("no such thing"), exit_codes.USAGE, "dgq: no such thing\n"),
        (CheckpointError("no\nconfig"), exit_codes.CANNOT_RUN, "dgq: no config\n"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            exit_codes.CANNOT_RUN,
            "dgq: torch is not installed, and the model needs it: pip install 'dgq[worker]'\n",
        ),
        (
            ZeroDivisionError("division\nby zero"),
            exit_codes.CANNOT_RUN,
            (
                "dgq: internal error: ZeroDivisionError: division by zero "
                "(add --traceback to see where)\n"
            ),
        ),
        (OSError(5, "Input/output error"), exit_codes.CANNOT_RUN, "dgq: Input/output error\n"),
        (KeyboardInterrupt(), exit_codes.INTERRUPTED, "dgq: interrupted\n"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, message):
    assert run_guarded(raising(error)) == code
    assert capsys.readouterr().err == message


def test_traceback_shows_where(capsys):
    assert run_guarded(raising(ValueError("odd")), with_traceback=True) == exit_codes.CANNOT_RUN
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_long_messages_are_cut():
    assert one_line("word " * 1000, limit=20) == "word word word word…"
