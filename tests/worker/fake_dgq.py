"""The ``dgq`` command with a scripted engine: no torch, no weights, answers known beforehand.

Run as a script it is the whole command in its own process; the tests also import FakeEngine.
A rewrite comes back with "color" spelt "colour"; an instruction may order other things of the
engine: "Be slow.", "Fail.", "Never converge.", "Crash.".
"""

import re
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from dgq.engine.errors import RequestError
from dgq.engine.request import Result


class CharTokenizer:
    """One token for each character."""

    def encode(self, text):
        return [ord(char) for char in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def encode_chat(self, messages):
        return self.encode(messages[-1]["content"])


class FakeEngine:
    """Answers in a thread each, at once or after a second."""

    tokenizer = CharTokenizer()
    canvas_length = 256
    model_name = "fake"
    model_path = Path("/nowhere")

    def __init__(self):
        self.num_requests = 0
        self.closed = False

    def submit(self, request):
        self.num_requests += 1
        future = Future()
        prompt = self.tokenizer.decode(request.prompt_ids)
        threading.Thread(target=_finish, args=(future, prompt), daemon=True).start()
        return future

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


def _finish(future, prompt):
    if "Be slow." in prompt:
        time.sleep(1)
    if not future.set_running_or_notify_cancel():
        return
    if "Fail." in prompt:
        future.set_exception(RequestError("too long for this engine"))
    elif "Crash." in prompt:
        future.set_exception(ZeroDivisionError("a bug"))
    else:
        text = answer(prompt)
        reason = "unconverged" if "Never converge." in prompt else "stop"
        ids = tuple(map(ord, text))
        future.set_result(Result(ids, reason, 1, 4, 0, 0.01, 0.001))


def answer(prompt):
    """What the fake model says."""
    if slot := re.search(r"Give only the value of \{\{(.*)\}\}\.$", prompt):
        return slot[1].upper()
    return prompt.partition("\n\n")[2].replace("color", "colour")


def main():
    """The real command, with the fake engine in place of the real one."""
    from dgq.worker import cli, local

    local.load_engine = lambda model_path, **options: FakeEngine()
    cli.main()


if __name__ == "__main__":
    sys.exit(main())
