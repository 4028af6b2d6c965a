"""Settings: which source wins, where each value came from, and what a bad one is told."""

import importlib.util
import os
import pickle
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from dgq.worker.errors import CommandError, UsageFault
from dgq.worker.ledger.address import SCHEMES
from dgq.worker.settings import (
    Settings,
    load_settings,
    misspelt_variables,
    setting_name,
    variable_name,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, beside the user's home, and none of our variables."""
    for name in [name for name in os.environ if name.startswith(("DGQ_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def fault(**flags):
    with pytest.raises(UsageFault) as raised:
        load_settings(**flags)
    return str(raised.value)


def test_with_nothing_given_the_defaults_hold(tmp_path):
    settings = load_settings()
    assert settings.model_dump() == Settings().model_dump()
    assert settings.redis_url is None and settings.shard_jobs == 128
    assert settings.data_folder == tmp_path / "home/.local/share/dgq"
    assert set(settings.origins.values()) == {"default"}
    assert list(settings.origins) == list(Settings.model_fields)


def test_the_stronger_source_wins_and_is_named(folder, monkeypatch):
    (folder / "dgq.toml").write_text("lease_s = 1\nmax_deaths = 1\nshard_jobs = 1\nshard_bytes = 1")
    (folder / ".env").write_text("DGQ_LEASE_S=2\nDGQ_MAX_DEATHS=2\nexport DGQ_SHARD_JOBS='2'\n")
    monkeypatch.setenv("DGQ_LEASE_S", "3")
    monkeypatch.setenv("DGQ_MAX_DEATHS", "3")
    settings = load_settings(lease_s=4, redis_url=None)
    assert (settings.lease_s, settings.max_deaths) == (4.0, 3)
    assert (settings.shard_jobs, settings.shard_bytes) == (2, 1)
    origins = settings.origins
    assert origins["lease_s"] == "flag"
    assert origins["max_deaths"] == "environment DGQ_MAX_DEATHS"
    assert origins["shard_jobs"] == ".env"
    assert origins["shard_bytes"] == "dgq.toml"
    assert origins["redis_url"] == "default"


def test_made_directly_they_read_nothing(folder, monkeypatch):
    (folder / ".env").write_text("DGQ_LEASE_S=2\n")
    monkeypatch.setenv("DGQ_MAX_DEATHS", "9")
    settings = Settings(shard_jobs=5, model_path=Path("m"))
    assert (settings.lease_s, settings.max_deaths, settings.model_path) == (10.0, 3, Path("m"))
    assert settings.origins["shard_jobs"] == "flag" and settings.origins["lease_s"] == "default"


def test_what_a_loaded_one_is_given_later_is_no_flag():
    settings = load_settings(lease_s=3).model_copy(update={"redis_url": "unix:///private"})
    assert settings.origins["lease_s"] == "flag"
    assert settings.origins["redis_url"] == "default"


def test_they_are_frozen_and_travel_to_other_processes():
    settings = load_settings(redis_password="secret", lease_s=3)
    with pytest.raises(ValidationError):
        settings.lease_s = 4
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings and copy.origins == settings.origins


def test_an_unknown_flag_is_a_bug():
    with pytest.raises(TypeError, match="no such settings: redis_ulr"):
        load_settings(redis_ulr="redis://x")


def test_the_model_has_a_variable_without_path(folder, monkeypatch):
    (folder / "dgq.toml").write_text('model = "weak"')
    monkeypatch.setenv("MODEL_PATH", "/wrong")
    monkeypatch.setenv("DGQ_MODEL_PATH", "/wrong")
    monkeypatch.setenv("DGQ_MODEL", "/models/m")
    assert load_settings().model_path == Path("/models/m")
    assert load_settings().origins["model_path"] == "environment DGQ_MODEL"
    assert load_settings(model_path=Path("/flag")).model_path == Path("/flag")


def test_an_empty_variable_is_as_if_it_were_not_there(folder, monkeypatch):
    (folder / ".env").write_text("DGQ_MODEL=\n")
    (folder / "dgq.toml").write_text('model = "/toml"\nredis_url = ""\n')
    monkeypatch.setenv("DGQ_MODEL", "")
    settings = load_settings()
    assert settings.model_path == Path("/toml")
    assert settings.redis_url is None and settings.origins["redis_url"] == "dgq.toml"


def test_passwords_are_not_printed():
    settings = load_settings(redis_password="secret", redis_url="redis://:secret@h")
    assert settings.redis_password == SecretStr("secret")
    assert "secret" not in repr(settings) and "secret" not in str(settings)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf", "nan", "true"])
def test_a_bad_variable_is_named(monkeypatch, text):
    monkeypatch.setenv("DGQ_PROGRESS_INTERVAL_S", text)
    assert fault() == f"DGQ_PROGRESS_INTERVAL_S must be a number above 0, not {text!r}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("shard_jobs = 4097", "shard_jobs in dgq.toml must be a whole number from 1 to 4096"),
        ("shard_jobs = true", "shard_jobs in dgq.toml must be a whole number from 1 to 4096"),
        ("shard_jobs = 1.5", "shard_jobs in dgq.toml must be a whole number from 1 to 4096"),
        ("shard_jobs = [1]", "shard_jobs in dgq.toml must be a whole number from 1 to 4096"),
        ("max_deaths = 0", "max_deaths in dgq.toml must be a whole number of at least 1, not 0"),
        ('key_prefix = ""', "key_prefix in dgq.toml must be 1 to 64 letters, digits, or any of"),
        ('key_prefix = "a*"', "key_prefix in dgq.toml must be 1 to 64 letters, digits, or any of"),
        ('kernels = "cuda"', "kernels in dgq.toml must be one of auto, triton, torch, not 'cuda'"),
        ('dtype = "int8"', "dtype in dgq.toml must be one of auto, bfloat16, float32, not 'int8'"),
        ("model = 5", "model in dgq.toml must be a path, not 5"),
        ("max_memory_percent = 101", "must be a number above 0 and at most 100, not 101"),
        ("metrics_port = 65536", "must be a whole number from 0 to 65535, not 65536"),
    ],
)
def test_a_bad_value_in_the_file_is_named(folder, line, message):
    (folder / "dgq.toml").write_text(line)
    assert message in fault()


def test_a_bad_value_in_dotenv_and_as_a_flag_is_named(folder):
    (folder / ".env").write_text("DGQ_MAX_DEATHS=many\n")
    assert fault() == ("DGQ_MAX_DEATHS in .env must be a whole number of at least 1, not 'many'")
    assert fault(max_deaths=0) == "--max-deaths must be a whole number of at least 1, not 0"


def test_a_bad_value_below_a_good_one_does_no_harm(folder):
    (folder / ".env").write_text("DGQ_MAX_DEATHS=many\n")
    assert load_settings(max_deaths=2).max_deaths == 2


@pytest.mark.parametrize("name", ["redis_url", "broker_url"])
def test_a_bad_url_is_refused_without_showing_it(name):
    message = fault(**{name: "h:6379?password=secret"})
    assert (
        message.startswith(f"--{name.replace('_', '-')} must be a URL") and "secret" not in message
    )


def test_every_scheme_that_connecting_knows_is_taken():
    for scheme in SCHEMES:
        assert load_settings(redis_url=f"{scheme}://x").redis_url == f"{scheme}://x"
    assert fault(redis_url="http://x").startswith("--redis-url must be a URL: redis://")
    assert load_settings(broker_url="amqp://x").broker_url == "amqp://x"


def test_a_bad_password_is_not_shown(folder):
    (folder / "dgq.toml").write_text("redis_password = 12345")
    assert fault() == "redis_password in dgq.toml must be a text"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("redis_ulr", "redis_url"),
        ("DGQ_REDIS_URL", "redis_url"),
        ("Shard-Jobs", "shard_jobs"),
        ("model_path", "model"),
    ],
)
def test_an_unknown_key_is_told_the_nearest(folder, key, nearest):
    (folder / "dgq.toml").write_text(f"{key} = 1")
    assert fault() == f"dgq.toml: {key} is not a setting; the nearest is {nearest}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"lease_s = 1\nshard_jobs 3\n", "dgq.toml line 2 is not TOML: Expected '='"),
        (b"lease_s = 1\n\nserve = [\n", "dgq.toml line 3 is not TOML: Invalid value"),
        (b"lease_s = 1\nserve = '\xff'\n", "dgq.toml line 2 is not UTF-8"),
    ],
)
def test_a_broken_file_is_named_with_its_line(folder, content, message):
    (folder / "dgq.toml").write_bytes(content)
    assert fault().startswith(message)


def test_paths_in_the_file_are_relative_to_it(folder, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there/c.toml").write_text('model = "m"\ndata_folder = "/d"\ntls_ca_file = "~/ca"')
    monkeypatch.setenv("DGQ_CONFIG", "../there/c.toml")
    settings = load_settings()
    assert settings.model_path.resolve() == tmp_path / "there/m"
    assert settings.data_folder == Path("/d")
    assert settings.tls_ca_file == tmp_path / "home/ca"
    assert settings.origins["model_path"] == "../there/c.toml"


def test_the_users_file_counts_where_there_is_none_here(folder, tmp_path, monkeypatch):
    mine = tmp_path / "home/.config/dgq/dgq.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text("lease_s = 1\nmax_deaths = 1")
    assert load_settings().origins["lease_s"] == str(mine)
    (folder / "dgq.toml").write_text("lease_s = 2")
    settings = load_settings()
    assert (settings.lease_s, settings.max_deaths) == (2.0, 3)
    monkeypatch.setenv("DGQ_CONFIG", "/dev/null")
    assert load_settings().lease_s == 10.0


def test_folders_of_the_user_may_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative/is/ignored")
    assert load_settings().data_folder == tmp_path / "data/dgq"


def test_a_user_without_a_home_can_still_work(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pathlib.Path.home", raise_no_home)
    assert load_settings().data_folder == Path("/nonexistent/.local/share/dgq")


def raise_no_home():
    raise RuntimeError("Could not determine home directory.")


def test_a_named_file_must_be_there(monkeypatch):
    monkeypatch.setenv("DGQ_CONFIG", "no.toml")
    assert fault() == "DGQ_CONFIG names no.toml, which does not exist"


def test_a_folder_is_no_file(folder, monkeypatch):
    (folder / ".env").mkdir()
    (folder / "dgq.toml").mkdir()
    assert load_settings().model_dump() == Settings().model_dump()
    monkeypatch.setenv("DGQ_CONFIG", "dgq.toml")
    with pytest.raises(CommandError, match=r"cannot read dgq\.toml: Is a directory"):
        load_settings()


def test_a_dotenv_of_others_is_left_alone(folder, capfd):
    text = "\ufeffDGQ_LEASE_S=7 # ours\nPORT=1\nserve=x\nthis is no line\nkey_prefix='\n"
    (folder / ".env").write_text(text, encoding="utf-8")
    settings = load_settings()
    assert settings.lease_s == 7.0
    assert settings.serve is None and settings.key_prefix == "dgq"
    assert capfd.readouterr() == ("", "")


def test_a_broken_line_of_ours_in_dotenv_is_named(folder):
    (folder / ".env").write_text("PORT=1\nexport DGQ_MODEL '/m'\n")
    assert fault() == ".env line 2 is not NAME=value"
    (folder / ".env").write_bytes(b"A=1\nB=\xe4\n")
    assert fault() == ".env line 2 is not UTF-8"


def test_misspelt_variables_are_found(folder, monkeypatch):
    monkeypatch.setenv("DGQ_REDIS_ULR", "redis://x")
    monkeypatch.setenv("DGQ_SERVICE_HOST", "10.0.0.1")
    (folder / ".env").write_text("DGQ_LEASES_S=1\nDGQ_CONFIGS=x\nDGQ_MODEL=m\n")
    assert misspelt_variables() == [
        ("DGQ_CONFIGS", "DGQ_CONFIG"),
        ("DGQ_LEASES_S", "DGQ_LEASE_S"),
        ("DGQ_REDIS_ULR", "DGQ_REDIS_URL"),
    ]


def test_every_setting_has_a_name_a_variable_and_a_meaning():
    for name, field in Settings.model_fields.items():
        assert variable_name(name) == f"DGQ_{setting_name(name).upper()}"
        assert field.description.endswith(".")


def test_the_page_of_settings_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = (ROOT / "docs" / "settings.md").read_text()
    assert generate.settings_page() == page, "run: make docs"
