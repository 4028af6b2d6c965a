"""The ledger's Lua scripts: read once from beside this file, run by their digest."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

from redis import Redis

from .keys import ABANDONED_S, GROUP

NAMES = (
    "create",
    "add_shard",
    "seal",
    "claim",
    "renew",
    "commit",
    "release",
    "split",
    "control",
    "backlog",
    "waiting",
)
CONSTANTS = f"local GROUP, ABANDONED_S = '{GROUP}', {ABANDONED_S}\n"


class Scripts:
    """The scripts of one server; a server that has forgotten them is given them again."""

    def __init__(self, redis: Redis) -> None:
        self._scripts = {name: redis.register_script(source(name)) for name in NAMES}

    def run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script. Raises redis.RedisError."""
        return cast("Any", self._scripts[name](keys=list(keys), args=list(args)))


@cache
def source(name: str) -> str:
    """A script with what all of them share before it."""
    folder = files(__package__)
    return CONSTANTS + "".join((folder / f"{part}.lua").read_text() for part in ("common", name))
