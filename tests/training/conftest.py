"""Fixtures of the training's tests."""

from pathlib import Path

import pytest

from dgq.engine.engine import DEFAULT_MODEL_PATH


@pytest.fixture(scope="session")
def shipped_model() -> Path:
    """The folder of dgq-tiny."""
    return DEFAULT_MODEL_PATH
