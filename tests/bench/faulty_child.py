"""A benchmark's child whose only section fails in every way that there is."""

import os
import signal
import sys
import time
from contextlib import contextmanager

import torch

from dgq.bench import child
from dgq.bench.section import Group
from dgq.bench.sections import SECTIONS


class FaultySection:
    name = "faulty"
    title = "Faults"

    def groups(self, settings):
        return [Group("points", ("good",))]

    @contextmanager
    def open(self, settings, group):
        if group == "does not open":
            raise ValueError("no such thing")
        if group == "dies at once":
            print("its last words", file=sys.stderr)
            os._exit(9)
        yield self.measure

    def measure(self, point):
        print("what a library prints is no event")
        if point == "raises":
            raise ValueError("a kernel\nis wrong")
        if point == "out of memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if point == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if point == "hangs":
            time.sleep(1000)
        if point == "takes a second":
            time.sleep(1)
        return {"figure": 1, "process": os.getpid()}

    def table(self, settings, rows):
        return ""


SECTIONS["faulty"] = FaultySection()
if __name__ == "__main__":
    sys.exit(child.main())
