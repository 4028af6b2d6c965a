"""Dashboard, alerts and scrape configuration: what they name is what dgq exports."""

import json
import re
from importlib import import_module
from itertools import combinations
from types import SimpleNamespace

import promql_parser
import pytest
import yaml

from dgq.engine.stats import EngineStats
from dgq.worker.fleet.metrics import QueueMetrics, WorkerMetrics
from dgq.worker.ledger.types import STATUSES
from dgq.worker.settings import load_settings
from tests.deploy.files import DEPLOY, image_settings, manifest, mounts, services

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "dgq.json").read_text())
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
EVERYWHERE = {"instance", "job"}
"""Labels that Prometheus adds."""


def exported():
    """Sample name to the labels that it comes with, of all that workers and scheduler export."""
    worker = WorkerMetrics(alive=lambda: True)
    worker.engine(EngineStats(0, 0, 0, 0, 0.0, 0, 0, 0))
    worker.set_backlog("default", 1)
    ledger = SimpleNamespace(
        labels=lambda: ["default"],
        backlog=lambda label: 1,
        workers=lambda: [SimpleNamespace(fields={"labels": "default"})],
        memory_percent=lambda: 50.0,
    )
    found = {"process_resident_memory_bytes": set()}
    for metrics in (worker, QueueMetrics(ledger, alive=lambda: True)):
        for family in metrics.collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPORTED = exported()
EXPRESSIONS = {
    **{f"alert {rule['alert']}": rule["expr"] for rule in ALERTS},
    **{
        f"panel {panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
    "KEDA": manifest("ScaledObject", "dgq-worker")["spec"]["triggers"][0]["metadata"][
        "valueLocation"
    ],
    **{
        f"README {name}": name
        for name in re.findall(r"`(dgq_\w+(?:\{\w+\})?)`", (DEPLOY / "README.md").read_text())
        if "{" not in name
    },
}


def selectors(expression):
    """Every selector of an expression, as (metric, {label: value})."""
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            labels = {match.name: match.value for match in node.matchers.matchers}
            found.append((node.name, labels))

    expression = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_an_expression_asks_for_what_is_exported(where):
    found = selectors(EXPRESSIONS[where])
    assert found
    histograms = {"dgq_steps_per_canvas"}  # named so, exported as _bucket, _sum and _count
    for metric, labels in found:
        if where.startswith("README") and metric in histograms:
            continue
        assert metric in EXPORTED, metric
        assert labels.keys() <= EXPORTED[metric] | EVERYWHERE
        for status in labels.get("status", "").split("|"):
            assert status in ("", *STATUSES)
    for grouped in re.findall(r"(?:by|on) \((\w+)\)", EXPRESSIONS[where]):
        labels = set.intersection(*(EXPORTED[metric] for metric, _ in found)) | EVERYWHERE
        assert grouped in labels


def test_every_metric_is_explained():
    text = (DEPLOY / "README.md").read_text()
    for name in EXPORTED:
        base = re.sub(r"(?<=dgq_steps_per_canvas)_(bucket|sum|count)$", "", name)
        assert re.search(rf"`{base}(\{{\w+\}})?`", text), base


def test_alerts_say_what_to_know():
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names)
    for rule in ALERTS:
        assert re.fullmatch(r"Dgq[A-Z]\w+", rule["alert"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        for text in rule["annotations"].values():
            for template in re.findall(r"\{\{(.*?)\}\}", text):
                assert re.fullmatch(
                    r" \$value( \| humanize\w*)? | \$labels\.(label|instance) ", template
                )
            assert text.count("{{") == text.count("}}")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize(
    "word",
    ["dgq_workers", "dgq_backlog_jobs", "dgq_leases_lost_total", "invalid_output"],
)
def test_alerts_cover_what_must_not_go_unseen(word):
    assert any(word in rule["expr"] for rule in ALERTS)


def test_prometheus_finds_workers_and_scheduler():
    port = int(image_settings()["DGQ_METRICS_PORT"])
    workers, scheduler = PROMETHEUS["scrape_configs"]
    (lookup,) = workers["dns_sd_configs"]
    assert (lookup["type"], lookup["port"]) == ("A", port)
    for name, service in services().items():
        aliases = service.get("networks", {}).get("default", {}).get("aliases", [])
        assert (lookup["names"] == aliases) == name.startswith("worker"), name
    assert scheduler["static_configs"] == [{"targets": [f"scheduler:{port}"]}]
    for file in PROMETHEUS["rule_files"]:
        assert (DEPLOY / "prometheus" / file).exists()
    (config, *_) = services()["prometheus"]["command"]
    path = config.removeprefix("--config.file=").removeprefix("/etc/prometheus/")
    assert (DEPLOY / "prometheus" / path).exists()


def test_grafana_finds_its_data_source_and_its_dashboard():
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    variables = {entry["name"]: entry for entry in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["current"]["value"] == source["uid"]
    assert variables["datasource"]["query"] == source["type"]
    assert source["url"] == "http://prometheus:9090"
    assert services()["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "dgq.yml").read_text())["providers"]
    grafana = services()["grafana"]
    mounted = {target: source for source, target in mounts(grafana)}
    assert mounted[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounted["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/dgq.json"


def test_the_dashboard_is_laid_out():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    cells = []
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        cells.append({(x, y) for x in columns for y in rows})
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
    assert not any(one & other for one, other in combinations(cells, 2))


@pytest.mark.parametrize(
    "metric",
    [
        "dgq_backlog_jobs",
        "dgq_jobs_committed_total",
        "dgq_tokens_total",
        "dgq_rows_in_flight",
        "dgq_block_fill_ratio",
        "dgq_steps_per_canvas_bucket",
        "dgq_retries_total",
        "dgq_leases_lost_total",
        "dgq_device_memory_bytes",
        "dgq_workers",
    ],
)
def test_the_dashboard_shows(metric):
    assert any(metric in text for where, text in EXPRESSIONS.items() if where.startswith("panel"))


def test_flower_looks_where_the_workers_listen(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DGQ_REDIS_URL", "redis://example:6379/0")
    monkeypatch.setenv("DGQ_REDIS_PASSWORD", "secret")
    monkeypatch.syspath_prepend(DEPLOY / "flower")
    app = import_module("dgq_flower").app
    assert app.conf.broker_url == "redis://:secret@example:6379/0"
    prefix = app.conf.broker_transport_options["global_keyprefix"]
    assert prefix.startswith(load_settings().key_prefix)
    entrypoint = services()["flower"]["entrypoint"]
    assert entrypoint[entrypoint.index("--app") + 1] == "dgq_flower"
    workdir = entrypoint[entrypoint.index("--workdir") + 1]
    assert f"COPY deploy/flower {workdir}\n" in (DEPLOY / "Dockerfile").read_text()
