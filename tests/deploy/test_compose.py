"""compose.yaml against the Compose Specification's schema, and against what a schema cannot know."""

import importlib.resources
import json
import re
import tomllib

import jsonschema
import pytest
import yaml

from dgq.worker.fleet.draining import GRACE_S
from dgq.worker.settings import Settings
from tests.deploy.files import ENV, ROOT, compose, mounts, seconds, services

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NUMS_OF_GPUS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def validator():
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((vendored / "compose-spec.json").read_text())
    return jsonschema.validators.validator_for(schema)(schema)


def started(profiles):
    """The services that start with these profiles."""
    wanted = set(profiles)
    return {
        name: service
        for name, service in services().items()
        if not service.get("profiles") or wanted & set(service["profiles"])
    }


def test_it_follows_the_specification(validator):
    validator.validate(compose())


@pytest.mark.parametrize(
    "change",
    [
        lambda service: service.update(stop_graceperiod="1s"),
        lambda service: service["healthcheck"].update(test={"CMD": "x"}),
        lambda service: service.update(command={"sh": True}),
    ],
)
def test_the_specification_sees_mistakes(validator, change):
    broken = compose()
    change(broken["services"]["server"])
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


@pytest.mark.parametrize("missing", ["DGQ_REDIS_PASSWORD", "MONITORING_PASSWORD"])
def test_it_does_not_start_without_passwords(missing):
    with pytest.raises(AssertionError, match=r"copy \.env\.example to \.env"):
        compose(**{missing: ""})


def test_the_example_of_settings_names_all_that_is_to_be_filled_in():
    example = (ROOT / ".env.example").read_text()
    text = (ROOT / "compose.yaml").read_text()
    variables = set(re.findall(r"(?<!\$)\$\{(\w+)", text)) - {"DGQ_SERVE", "SERVER_PORT"}
    assert variables <= set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))
    assert set(re.findall(r"^(\w+)=$", example, re.MULTILINE)) == set(ENV) - {"COMPOSE_PROFILES"}


def test_everything_that_is_named_exists():
    declared = compose()
    for name, service in declared["services"].items():
        for other in service.get("depends_on", ()):
            assert other in declared["services"], name
            assert not declared["services"][other].get("profiles") or service.get("profiles"), name
        for source, _ in mounts(service):
            if source.startswith("."):
                assert (ROOT / source).exists(), (name, source)
            else:
                assert source in declared["volumes"], (name, source)
        for network in service.get("networks", ()):
            assert network == "default", name
        if "build" in service:
            dockerfile = ROOT / service["build"]["dockerfile"]
            assert f" AS {service['build']['target']}\n" in dockerfile.read_text()


def test_who_waits_for_health_waits_for_something():
    declared = services()
    for name, service in declared.items():
        wanted = service.get("depends_on", {})
        for other in wanted if isinstance(wanted, dict) else ():
            assert wanted[other] == {"condition": "service_healthy"}, name
            assert "healthcheck" in declared[other], other


def test_images_are_pinned():
    for name, service in services().items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+\.\d+(-[a-z]+)?$", tag), name
        assert ("build" in service) == service["image"].startswith("dgq-"), name
        if "build" in service:
            assert tag == VERSION, name


def test_nobody_is_root_or_may_become_it():
    for name, service in services().items():
        if "build" not in service:  # for the others the image says it, see test_dockerfile.py
            assert re.fullmatch(r"[1-9]\d*:\d+", service["user"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"], name
        assert service["restart"] == "unless-stopped", name


def test_ports_are_for_this_machine_only():
    for name, service in services().items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


@pytest.mark.parametrize("num_gpus", NUMS_OF_GPUS)
def test_there_is_one_worker_for_each_gpu(num_gpus):
    gpus = []
    for name, service in started({f"gpus-{num_gpus}"}).items():
        if not name.startswith("worker"):
            continue
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        assert service["command"] == ["worker", "--device", "cuda:0"]
        assert service["hostname"] == name
        gpus += device["device_ids"]
    assert gpus == [str(number) for number in range(num_gpus)]


def test_there_is_one_worker_without_a_gpu():
    workers = [name for name in started({"cpu"}) if name.startswith("worker")]
    assert workers == ["worker-cpu"]
    assert services()["worker-cpu"]["command"] == ["worker", "--device", "cpu"]
    assert "deploy" not in services()["worker-cpu"]


def test_monitoring_is_asked_for():
    extra = started({"monitoring"}).keys() - started(()).keys()
    assert extra == {"flower", "prometheus", "grafana"}
    assert started(()).keys() == {"server", "scheduler"}


def test_workers_have_time_to_drain():
    for name, service in services().items():
        if service.get("command", ["?"])[0] in ("worker", "scheduler"):
            drain_s = float(
                service["environment"].get(
                    "DGQ_DRAIN_TIMEOUT_S", Settings.model_fields["drain_timeout_s"].default
                )
            )
            assert seconds(service["stop_grace_period"]) >= drain_s + 2 * GRACE_S, name


def test_a_model_is_named_as_workers_see_it():
    given = services(MODELS_FOLDER="/srv/models", MODEL_NAME="big")["worker-0"]
    assert given["environment"]["DGQ_MODEL"] == "/models/big"
    assert given["volumes"][0] == "/srv/models:/models:ro"
    assert services()["worker-0"]["environment"]["DGQ_MODEL"] == ""


def test_the_file_has_no_secret_and_no_tabs():
    text = (ROOT / "compose.yaml").read_text()
    assert "\t" not in text
    assert yaml.safe_load(text)["x-settings"]["DGQ_REDIS_PASSWORD"].startswith("${")
