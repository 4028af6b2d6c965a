"""``dgq config show``: every setting, its value without passwords, and where it came from."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from dgq.worker import exit_codes
from dgq.worker.commands.config_command import config
from dgq.worker.settings import Settings, setting_name


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, and none of our variables."""
    for name in [name for name in os.environ if name.startswith(("DGQ_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def show(*args):
    return CliRunner().invoke(config, ["show", *args])


def test_json_has_every_setting_with_its_type_and_origin(folder, monkeypatch):
    (folder / "dgq.toml").write_text('model = "m"\nlease_s = 1')
    monkeypatch.setenv("DGQ_SHARD_JOBS", "7")
    done = show("--json")
    rows = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (exit_codes.OK, "")
    assert list(rows) == [setting_name(name) for name in Settings.model_fields]
    assert rows["model"] == {"value": "m", "origin": "dgq.toml"}
    assert rows["lease_s"] == {"value": 1.0, "origin": "dgq.toml"}
    assert rows["shard_jobs"] == {"value": 7, "origin": "environment DGQ_SHARD_JOBS"}
    assert rows["redis_url"] == {"value": None, "origin": "default"}


def test_the_table_is_aligned(folder, monkeypatch):
    (folder / ".env").write_text("DGQ_LEASE_S=2.5\n")
    monkeypatch.setenv("DGQ_MODEL", "/" + "long/" * 30)
    lines = show().stdout.splitlines()
    assert len(lines) == len(Settings.model_fields)
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown["lease_s"].split() == ["2.5", ".env"]
    assert shown["redis_url"].split() == ["-", "default"]
    assert shown["model"].endswith("long  environment DGQ_MODEL")
    short = [line for line in lines if line.startswith(("redis", "shard", "max"))]
    assert len({line.rindex("default") for line in short}) == 1


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_no_password_is_shown(monkeypatch, args):
    monkeypatch.setenv("DGQ_REDIS_URL", "rediss://user:s3cret@host:6379/1?ssl_password=s3cret")
    monkeypatch.setenv("DGQ_BROKER_URL", "amqp://:s3cret@host//")
    monkeypatch.setenv("DGQ_REDIS_PASSWORD", "s3cret")
    done = show(*args)
    assert done.exit_code == exit_codes.OK
    assert "s3cret" not in done.output
    assert "rediss://user:***@host:6379/1?ssl_password=***" in done.stdout
    assert "amqp://:***@host//" in done.stdout


def test_a_misspelt_variable_is_pointed_out(monkeypatch):
    monkeypatch.setenv("DGQ_REDIS_ULR", "redis://x")
    done = show()
    assert done.exit_code == exit_codes.OK
    assert done.stderr == "dgq: DGQ_REDIS_ULR is not a setting; did you mean DGQ_REDIS_URL?\n"


def test_a_bad_value_is_one_line(monkeypatch):
    monkeypatch.setenv("DGQ_LEASE_S", "long")
    done = show()
    assert (done.exit_code, done.stdout) == (exit_codes.USAGE, "")
    assert done.stderr == "dgq: DGQ_LEASE_S must be a number above 0, not 'long'\n"


def test_its_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from dgq.worker.commands import completion_command, config_command\n"
        "print([name for name in ('pydantic', 'redis', 'celery') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
