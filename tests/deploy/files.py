"""Reading the files of a deployment as the tools do that they are meant for."""

import re
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

ENV = {
    "DGQ_REDIS_PASSWORD": "secret",
    "MONITORING_PASSWORD": "other",
    "COMPOSE_PROFILES": "gpus-1",
}
"""What a user must fill in of .env.example."""

_VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?:(:[-+?])((?:[^{}]|\$\{[^{}]*\})*))?\})")


def interpolated(text, env):
    """Compose's variables: ``${X}``, ``${X:-else}``, ``${X:+then}``, ``${X:?complaint}``, ``$$``."""

    def value_of(match):
        name, operator, rest = match.groups()
        if name is None:
            return "$"
        value = env.get(name, "")
        match operator:
            case ":?":
                assert value, f"{name}: {rest}"
            case ":-":
                return value or interpolated(rest, env)
            case ":+":
                return interpolated(rest, env) if value else ""
            case _:
                pass
        return value

    return _VARIABLE.sub(value_of, text)


def compose(**env):
    """compose.yaml with its variables filled in; those of ENV unless others are given."""
    return _fill(yaml.safe_load((ROOT / "compose.yaml").read_text()), ENV | env)


def _fill(value, env):
    if isinstance(value, dict):
        return {name: _fill(item, env) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, env) for item in value]
    return interpolated(value, env) if isinstance(value, str) else value


def services(**env):
    return compose(**env)["services"]


def seconds(text):
    """Compose's durations: ``90s``, ``10m``."""
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()
    return int(number) * {"s": 1, "m": 60}[unit]


def mounts(service):
    """Pairs (source, target) of a service's volumes; both as written."""
    return [tuple(volume.split(":")[:2]) for volume in service.get("volumes", ())]


@cache
def manifests():
    """Pairs (path, document) of all of Kubernetes' files but kustomize's own."""
    found = []
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            found += [(path, document) for document in yaml.safe_load_all(path.read_text())]
    return found


def manifest(kind, name):
    """The one document of that kind and name outside of kubernetes/models."""
    (found,) = (
        document
        for path, document in manifests()
        if path.parent.name == "kubernetes"
        and (document["kind"], document["metadata"]["name"]) == (kind, name)
    )
    return found


def image_settings():
    """The environment that deploy/Dockerfile gives to every container."""
    return dict(re.findall(r"\b(DGQ_\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
