"""The published checkpoint's shape."""

from dgq.engine.shapes import SHAPES

PUBLISHED = SHAPES["26b-a4b"]
"""What decides shapes in google/diffusiongemma-26B-A4B-it's config.json."""
