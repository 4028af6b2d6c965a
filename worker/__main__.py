"""``python -m dgq.worker`` is ``dgq``."""

from .cli import main

main()
