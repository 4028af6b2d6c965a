from pathlib import Path

import pytest

from dgq.worker.errors import UsageFault
from dgq.worker.settings import Settings


def test_without_any_variable_the_defaults_hold():
    assert Settings.from_env({"PATH": "/bin"}) == Settings()


def test_variables_are_read():
    settings = Settings.from_env({"DGQ_MODEL": "/models/m", "DGQ_PROGRESS_INTERVAL_S": "0.5"})
    assert settings == Settings(model_path=Path("/models/m"), progress_interval_s=0.5)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan"])
def test_a_bad_value_is_an_error_that_names_the_variable(text):
    with pytest.raises(UsageFault, match="DGQ_PROGRESS_INTERVAL_S must be a number above 0"):
        Settings.from_env({"DGQ_PROGRESS_INTERVAL_S": text})


def test_an_empty_variable_is_as_if_it_were_not_there():
    assert Settings.from_env({"DGQ_MODEL": "", "DGQ_PROGRESS_INTERVAL_S": ""}) == Settings()
