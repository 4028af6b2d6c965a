"""How tokens are made: checkpoint, model, sampler, canvas scheduler.

Importing this package does not import torch. ``dgq.engine.request`` and ``dgq.engine.errors``
are plain data; ``dgq.engine.engine.Engine`` is the engine.
"""
