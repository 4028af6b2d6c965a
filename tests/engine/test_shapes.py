"""Shapes by name."""

import pytest

from dgq.engine.errors import EngineError
from dgq.engine.shapes import SHAPES, config_of_shape


def test_shapes_have_names():
    assert set(SHAPES) == {"26b-a4b", "micro"}
    assert config_of_shape("26b-a4b").num_experts == 128
    with pytest.raises(EngineError, match="no shape"):
        config_of_shape("nothing")
