"""The systemd units: by systemd's own checker where there is one, and by what they must say."""

import re
import shutil
import subprocess
import sys

import pytest

from dgq.worker import exit_codes
from dgq.worker.fleet.draining import GRACE_S
from dgq.worker.settings import Settings
from tests.deploy.files import DEPLOY

FOLDER = DEPLOY / "systemd"
UNITS = ["dgq-worker@.service", "dgq-scheduler.service"]


def read(unit):
    """Section to key to the list of its values."""
    sections, section = {}, None
    for number, line in enumerate((FOLDER / unit).read_text().splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = sections.setdefault(header[1], {})
            continue
        key, equals, value = line.partition("=")
        assert equals and section is not None and re.fullmatch(r"[A-Z]\w+", key), (unit, number)
        section.setdefault(key, []).append(value)
    return sections


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_it(tmp_path, unit):
    text = (FOLDER / unit).read_text()
    assert text.count("/opt/dgq/bin/dgq ") == 1
    copy = tmp_path / unit.replace("@.", "@0.")
    copy.write_text(text.replace("/opt/dgq/bin/dgq ", f"{sys.executable} "))
    if "@" in unit:
        (tmp_path / unit).write_text(copy.read_text())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "dgq" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("unit", UNITS)
def test_it_ends_in_order_and_comes_back_after_a_fault(unit):
    service = read(unit)["Service"]
    drain_s = Settings.model_fields["drain_timeout_s"].default
    assert float(service["TimeoutStopSec"][0]) >= drain_s + 2 * GRACE_S
    assert service["Restart"] == ["on-failure"]
    kept_down = set(map(int, service["RestartPreventExitStatus"][0].split()))
    assert kept_down == {exit_codes.USAGE}
    assert read(unit)["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert "KillSignal" not in service  # SIGTERM is the default


@pytest.mark.parametrize("unit", UNITS)
def test_it_may_do_little(unit):
    service = read(unit)["Service"]
    assert service["User"] == ["dgq"]
    assert service["CapabilityBoundingSet"] == [""]
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID"):
        assert service[key] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["SystemCallFilter"] == ["@system-service"]


def test_a_worker_may_use_its_gpu():
    service = read("dgq-worker@.service")["Service"]
    assert not {"PrivateDevices", "DevicePolicy", "MemoryDenyWriteExecute"} & service.keys()
    assert "--device cuda:%i" in service["ExecStart"][0]


@pytest.mark.parametrize("unit", UNITS)
def test_its_settings_come_from_a_file_that_only_root_reads(unit):
    files = read(unit)["Service"]["EnvironmentFile"]
    assert files[0] == "/etc/dgq/dgq.env"
    assert all(file.startswith("-/etc/dgq/") for file in files[1:])
    example = (FOLDER / "dgq.env.example").read_text()
    assert "mode 0600" in example
    assert re.search("^DGQ_REDIS_PASSWORD=$", example, re.MULTILINE)
