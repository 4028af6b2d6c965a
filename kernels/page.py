"""A page of keys and values, as the engine hands it out and the attention kernel reads it. No torch."""

PAGE_TOKENS = 16
"""Tokens of one page; canvas widths are multiples of it too."""
