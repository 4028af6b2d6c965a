"""What the files of a deployment call dgq's own things by: settings and commands."""

import re
import shlex

import click
import pytest

from dgq.worker.cli import cli
from dgq.worker.settings import CONFIG_VARIABLE, Settings, variable_name
from tests.deploy.files import DEPLOY, ROOT, manifests, services
from tests.deploy.test_dockerfile import IMAGES, of
from tests.deploy.test_systemd import UNITS, read

FILES = [
    ROOT / "compose.yaml",
    ROOT / ".env.example",
    *(path for path in sorted(DEPLOY.rglob("*")) if path.is_file() and path.suffix != ".pyc"),
]


def command_lines():
    """Every dgq command line that is started or recommended, by where it stands."""
    found = {}
    for name, service in services().items():
        if "build" in service and "entrypoint" not in service:
            found[f"compose {name}"] = service["command"]
    for image in IMAGES:
        found[f"image {image}"] = re.findall(r'"([^"]+)"', of(image, "CMD")[-1])
    for path, document in manifests():
        if document["kind"] == "Deployment" and path.parent.name == "kubernetes":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            found[f"kubernetes {path.stem}"] = container["args"]
    for unit in UNITS:
        (line,) = read(unit)["Service"]["ExecStart"]
        program, *arguments = shlex.split(line)
        assert program == "/opt/dgq/bin/dgq"
        found[unit] = [part.replace("%i", "0").replace("%H", "host") for part in arguments]
    text = (DEPLOY / "README.md").read_text()
    told = re.findall(r"(?:\$ dgq|run --rm(?: --no-TTY)? scheduler) ([^\n`]+)", text)
    assert len(told) == 3
    for line in told:
        found[f"README {line}"] = shlex.split(line.partition("<")[0])
    return found


COMMAND_LINES = command_lines()


@pytest.mark.parametrize("where", COMMAND_LINES)
def test_a_command_line_makes_sense(where):
    """click takes it: every command and option is there, and every value is of its kind."""
    command, arguments = cli, list(COMMAND_LINES[where])
    while isinstance(command, click.Group):
        name = arguments.pop(0)
        command = command.get_command(click.Context(command), name)
        assert command is not None, name
    command.make_context(name, arguments)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_settings_are_settings(path):
    known = {variable_name(field) for field in Settings.model_fields} | {CONFIG_VARIABLE}
    named = set(re.findall(r"\bDGQ_[A-Z0-9_]+\b", path.read_text()))
    assert named <= known
