"""What may be set: flags, DGQ_ variables, .env, dgq.toml. The only reader of the environment."""

import difflib
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from annotated_types import Ge, Gt, Le
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dgq.engine.engine_config import DTYPES, KERNELS

from .errors import UsageFault
from .settings_files import read_dotenv, read_toml

PREFIX = "DGQ_"
CONFIG_VARIABLE = "DGQ_CONFIG"
CONFIG_NAME = "dgq.toml"
DOTENV = Path(".env")

_REDIS_URL = r"^(redis|rediss|unix|valkey|valkeys|redis\+socket)://"
_ANY_URL = r"^[A-Za-z][A-Za-z0-9+.-]*://"
_KEY_PREFIX = r"^[A-Za-z0-9._:-]{1,64}$"
_LABEL = r"[A-Za-z0-9._-]{1,100}"
_LABELS = rf"^[\s,]*{_LABEL}\s*(,[\s,]*{_LABEL}\s*)*[\s,]*$"


def _one_of(choices: Iterable[str]) -> str:
    return f"^({'|'.join(choices)})$"


def _user_folder(variable: str, default: str) -> Path:
    """A folder of the XDG kind. Users without a home get one that does not exist."""
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given / "dgq"
    try:
        return Path.home() / default / "dgq"
    except RuntimeError:
        return Path("/nonexistent") / default / "dgq"


class Settings(BaseSettings):
    """All settings, checked and frozen. ``Settings(...)`` reads nothing; ``load_settings()`` does.

    Names end in their unit: ``_s`` seconds, ``_bytes`` bytes. None means what the description says.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    redis_url: str | None = Field(
        None,
        pattern=_REDIS_URL,
        repr=False,
        description="The Redis or Valkey server. None: a private one is started when needed.",
        json_schema_extra={"expected": "a URL: redis://, rediss:// (TLS) or unix:///path"},
    )
    redis_username: str | None = Field(
        None, description="The ACL user, where it is not in the URL."
    )
    redis_password: SecretStr | None = Field(
        None, description="The password, where it is not in the URL."
    )
    tls_ca_file: Path | None = Field(
        None, description="The CA that signed the server's certificate. None: the system's CAs."
    )
    connect_timeout_s: float = Field(5.0, gt=0, description="How long connecting may take.")
    broker_url: str | None = Field(
        None,
        pattern=_ANY_URL,
        repr=False,
        description="The broker of Celery's messages. None: the same server.",
        json_schema_extra={"expected": "a URL such as redis://host:6379/0"},
    )
    key_prefix: str = Field(
        "dgq",
        pattern=_KEY_PREFIX,
        description="What all keys in Redis begin with.",
        json_schema_extra={"expected": "1 to 64 letters, digits, or any of . _ : -"},
    )
    data_folder: Path = Field(
        default_factory=lambda: _user_folder("XDG_DATA_HOME", ".local/share"),
        description="Where the private server keeps its data; "
        "by default `dgq` in `$XDG_DATA_HOME` or `~/.local/share`.",
    )
    model_path: Path | None = Field(
        None,
        validation_alias="DGQ_MODEL",
        description="A checkpoint folder. None: the shipped dgq-tiny.",
    )
    dtype: str = Field(
        "auto",
        pattern=_one_of(DTYPES),
        description="Of the model's weights. auto: bfloat16 on a GPU, float32 on a CPU.",
        json_schema_extra={"expected": f"one of {', '.join(DTYPES)}"},
    )
    kernels: str = Field(
        "auto",
        pattern=_one_of(KERNELS),
        description="Who computes. auto: triton in bfloat16 on a GPU where it is installed, else torch.",
        json_schema_extra={"expected": f"one of {', '.join(KERNELS)}"},
    )
    serve: str | None = Field(
        None,
        pattern=_LABELS,
        description="Model labels that a worker serves, separated by commas. "
        "None: `default` and the name of its model's folder.",
        json_schema_extra={
            "expected": "names of up to 100 letters, digits, or any of . _ -, separated by commas"
        },
    )
    shard_jobs: int = Field(128, ge=1, le=4096, description="Jobs that are leased together.")
    shard_bytes: int = Field(
        262_144, ge=1, description="Raw bytes of jobs that are leased together."
    )
    shards_per_worker: int = Field(2, ge=1, description="Shards that a worker leases at once.")
    max_batch_jobs: int = Field(10_000_000, ge=1, description="Jobs that a batch may have.")
    max_job_bytes: int = Field(8_388_608, ge=1, description="Bytes that a job may have.")
    max_memory_percent: float = Field(
        90.0,
        gt=0,
        le=100,
        description="Submitting waits, then fails, while the server uses more of its `maxmemory`.",
    )
    lease_s: float = Field(
        10.0, gt=0, description="How long a silent worker keeps its shards before others get them."
    )
    max_deaths: int = Field(
        3, ge=1, description="Workers that a job may take down with it before it is an `error`."
    )
    janitor_interval_s: float = Field(
        2.0, gt=0, description="Time between two looks for expired leases."
    )
    stall_timeout_s: float = Field(
        300.0, gt=0, description="A worker that gets nothing done for so long is ended."
    )
    drain_timeout_s: float = Field(
        20.0, ge=0, description="What a worker has left after SIGTERM to finish what it holds."
    )
    results_ttl_s: int = Field(
        604_800, ge=1, description="How long the server keeps a finished batch and its results."
    )
    progress_interval_s: float = Field(
        5.0, gt=0, description="Time between two progress lines where stderr is no terminal."
    )
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Where a worker serves Prometheus metrics. None: nowhere."
    )

    _origins: Mapping[str, str] | None = PrivateAttr(None)

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each setting came from: "flag", "environment DGQ_…", ".env", a file, "default"."""
        made_directly = dict.fromkeys(self.model_fields_set, "flag")
        given = made_directly if self._origins is None else self._origins
        return {name: given.get(name, "default") for name in type(self).model_fields}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the arguments; load_settings asks the other sources itself, to know what is whose."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        if isinstance(value, bool):  # would pass as 0 or 1
            raise ValueError("no setting is a truth value")  # noqa: TRY004 - pydantic wants it
        return None if value == "" else value

    @field_validator("data_folder", "model_path", "tls_ca_file")
    @classmethod
    def _expand_home(cls, value: Path | None) -> Path | None:
        return value and Path(os.path.expanduser(value))


def load_settings(**flags: Any) -> Settings:
    """Ask every source, the stronger first. flags: by field name; those that are None are not given.

    Raises UsageFault for a value or a file that makes no sense, saying whose and what would, and
    CommandError for a file that cannot be read.
    """
    found: dict[str, tuple[Any, str, str]] = {}
    for name, value, origin, subject in _all_given(flags):
        found.setdefault(name, (value, origin, subject))
    try:
        settings = Settings(**{name: value for name, (value, _, _) in found.items()})
    except ValidationError as error:
        name = _field_name(str(error.errors()[0]["loc"][0]))
        value, _, subject = found[name]
        raise UsageFault(_complaint(name, value, subject)) from None
    settings._origins = {name: origin for name, (_, origin, _) in found.items()}
    return settings


def environment_with(settings: Settings) -> dict[str, str]:
    """This process's environment, and in it the settings, for a process that is to have the same."""
    environment = dict(os.environ)
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if value is None:
            environment.pop(variable_name(name), None)
        else:
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environment[variable_name(name)] = text
    return environment


def setting_name(field_name: str) -> str:
    """What people call it, and its key in dgq.toml."""
    return variable_name(field_name).removeprefix(PREFIX).lower()


def variable_name(field_name: str) -> str:
    """Its environment variable."""
    alias = Settings.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + field_name.upper()


def expected(field_name: str) -> str:
    """What a value of the setting must be, in words."""
    field = Settings.model_fields[field_name]
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["expected"])
    names = {int: "a whole number", float: "a number", Path: "a path"}
    limits = {type(limit): limit for limit in field.metadata}
    words = [names.get(_kind(field), "a text")]
    match limits.get(Ge), limits.get(Gt), limits.get(Le):
        case Ge(least), None, Le(most):
            words.append(f"from {least} to {most}")
        case Ge(least), None, None:
            words.append(f"of at least {least}")
        case None, Gt(border), Le(most):
            words.append(f"above {border} and at most {most}")
        case None, Gt(border), None:
            words.append(f"above {border}")
    return " ".join(words)


def misspelt_variables() -> list[tuple[str, str]]:
    """Pairs (variable, the one that was meant): DGQ_ variables that look like one of ours."""
    known = [variable_name(name) for name in Settings.model_fields] + [CONFIG_VARIABLE]
    pairs = []
    for given in sorted({*os.environ, *read_dotenv(DOTENV, PREFIX)}):
        if given.startswith(PREFIX) and given not in known:
            near = difflib.get_close_matches(given, known, n=1, cutoff=0.85)
            pairs += [(given, meant) for meant in near]
    return pairs


def _all_given(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any, str, str]]:
    """Yield (field, value, origin, what a complaint calls it), the stronger sources first."""
    if unknown := flags.keys() - Settings.model_fields.keys():
        raise TypeError(f"no such settings: {', '.join(sorted(unknown))}")
    for name, value in flags.items():
        if value is not None:
            yield name, value, "flag", f"--{setting_name(name).replace('_', '-')}"
    for name, text in _from_variables():
        yield name, text, f"environment {variable_name(name)}", variable_name(name)
    for name, text in _from_variables(read_dotenv(DOTENV, PREFIX)):
        yield name, text, str(DOTENV), f"{variable_name(name)} in {DOTENV}"
    path = _config_path()
    for name, value in _read_config(path).items() if path else ():
        yield name, value, str(path), f"{setting_name(name)} in {path}"


def _from_variables(variables: Mapping[str, str | None] | None = None) -> Iterator[tuple[str, str]]:
    """Yield (field, text) for the variables that are not empty; by default the process's own."""
    source = EnvSettingsSource(Settings)
    if variables is not None:
        source.env_vars = {name.lower(): text for name, text in variables.items() if text}
    for key, text in source().items():
        yield _field_name(key), text


def _config_path() -> Path | None:
    """The file of settings, if there is one. Raises UsageFault where one is named and missing."""
    if named := os.environ.get(CONFIG_VARIABLE):
        path = Path(os.path.expanduser(named))
        if not path.exists():
            raise UsageFault(f"{CONFIG_VARIABLE} names {path}, which does not exist")
        return path
    for path in (Path(CONFIG_NAME), _user_folder("XDG_CONFIG_HOME", ".config") / CONFIG_NAME):
        if path.is_file():
            return path
    return None


def _read_config(path: Path) -> Mapping[str, Any]:
    """The settings in a TOML file, by field; paths in it are relative to it."""
    fields = {setting_name(name): name for name in Settings.model_fields}
    values = {}
    for key, value in read_toml(path).items():
        if key not in fields:
            asked = key.lower().replace("-", "_").removeprefix(PREFIX.lower())
            (nearest,) = difflib.get_close_matches(asked, fields, n=1, cutoff=0.0)
            raise UsageFault(f"{path}: {key} is not a setting; the nearest is {nearest}")
        is_path = _kind(Settings.model_fields[fields[key]]) is Path
        if is_path and isinstance(value, str) and value and not value.startswith("~"):
            value = path.parent / value
        values[fields[key]] = value
    return values


def _complaint(field_name: str, value: Any, subject: str) -> str:
    """What is wrong, without the value where that is or may hold a secret."""
    field = Settings.model_fields[field_name]
    shown = "" if _kind(field) is SecretStr or not field.repr else f", not {reprlib.repr(value)}"
    return f"{subject} must be {expected(field_name)}{shown}"


def _field_name(key: str) -> str:
    """Of what pydantic names by field or, where there is an alias, by variable."""
    return next(name for name in Settings.model_fields if key in (name, variable_name(name)))


def _kind(field: FieldInfo) -> Any:
    """The type of a setting, without None."""
    return (get_args(field.annotation) or (field.annotation,))[0]
