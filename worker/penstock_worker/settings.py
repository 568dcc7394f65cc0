"""
Every setting of the worker's side, read once from the environment (prefix `PENSTOCK_`) and passed down.

Each may be given as `PENSTOCK_<NAME>_FILE` instead, with the path of a file that has the value. Where no
URL is set, the stack that `penstock up` runs in this folder is used, if one is running: `.penstock/stack.json`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from penstock_producers import environment
from penstock_producers.broker_url import TlsFiles, join_broker_url
from penstock_worker.database_url import check_database_url, join_database_url
from penstock_worker.errors import ConfigurationError
from penstock_worker.retention_setting import parse_retention

__all__ = ["LOCK_FILE", "SECRET_OPTIONS", "STACK_FILE", "Settings", "hide_password", "load_settings", "variable_of"]

#: Where `penstock up` says what runs, relative to the folder it was started in.
STACK_FILE = Path(".penstock") / "stack.json"
#: Locked while it runs, and by nobody after a kill -9.
LOCK_FILE = STACK_FILE.with_name("up.lock")

#: Options of libpq's that are secrets beside `password`, and that of redis-py.
SECRET_OPTIONS = ("sslpassword", "ssl_password", "oauth_client_secret", "scram_client_key", "scram_server_key")

_BROKER_SCHEMES = ("redis://", "rediss://", "amqp://", "amqps://")


class Settings(BaseSettings):
    """One frozen object; the field's description is its documentation."""

    model_config = SettingsConfigDict(
        env_prefix="PENSTOCK_", env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    broker_url: str | None = Field(
        None, description="redis://, rediss://, amqp:// or amqps://; empty starts an embedded Valkey"
    )
    database_url: str | None = Field(None, description="postgresql://...; empty starts an embedded PostgreSQL")
    broker_password: SecretStr | None = Field(None, description="The password of the broker's URL, which then has none")
    database_password: SecretStr | None = Field(None, description="The password of the database's URL, which then has none")
    broker_tls_ca: Path | None = Field(None, description="Authorities of the broker's certificate; empty takes the system's")
    broker_tls_certificate: Path | None = Field(None, description="Our certificate for the broker, with its chain")
    broker_tls_key: Path | None = Field(None, description="The private key of that certificate")
    database_tls_ca: Path | None = Field(
        None, description="Authorities of the database's certificate, or `system`; makes TLS a must"
    )
    database_tls_certificate: Path | None = Field(None, description="Our certificate for the database")
    database_tls_key: Path | None = Field(None, description="The private key of that certificate")
    records: Annotated[tuple[str, ...], NoDecode] = Field((), description="Modules with record types, separated by commas")
    tasks: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Modules with Celery tasks of your own, separated by commas"
    )
    migrations: str = Field("", description="Folders of migrations beside entry points, package=folder, separated by commas")
    queue: str = Field("penstock.events", description="The queue of events")

    worker_only: Literal["ingest", "maintenance"] | None = Field(None, description="What a worker does; empty does both")
    concurrency: int = Field(2, ge=1, description="Pool children, each with one database connection")
    batch_max_events: int = Field(5_000, ge=1, description="Events that fill a batch")
    batch_max_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Bytes that fill a batch")
    batch_max_age_s: float = Field(0.02, gt=0, description="Seconds after which a batch is written however small it is")
    held_max_bytes: int = Field(64 * 1024 * 1024, ge=1024, description="Bytes of messages a worker holds at most")
    prefetch_messages: int = Field(10_000, ge=1, le=65_535, description="Messages RabbitMQ may have under way to one worker")
    lease_s: float = Field(30, gt=0, description="Seconds after which Redis gives a dead worker's messages to others")
    redelivery_limit: int = Field(3, ge=1, description="Times a message may kill a child while alone, before it is dead")
    batch_time_limit_s: int = Field(300, ge=1, description="Seconds after which a child that writes a batch is killed")
    probe_s: float = Field(1, gt=0, description="Seconds between two looks at a database that is away")

    flush_every_s: float = Field(30, gt=0, description="Seconds between two times that all workers write what they hold")
    audit_every_s: float = Field(300, gt=0, description="Seconds between two times that gaps are counted, the ledger is folded")
    ledger_keep_days: int = Field(90, ge=-1, description="Days without a word after which a producer's ledger goes; -1 never")
    runs_keep_days: int = Field(30, ge=-1, description="Days that rows of maintenance_runs are kept; -1 keeps them for ever")

    stalled_after_s: float = Field(30, gt=0, description="Seconds of standing still after which a worker says that it does")
    health_folder: Path = Field(Path(".penstock") / "health", description="Where workers say how they are")

    statement_timeout_s: float = Field(60, gt=0, description="Seconds one statement of a batch may take")
    connect_timeout_s: float = Field(5, gt=0, description="Seconds one connection attempt may take")
    clock_ahead_limit_s: float = Field(300, gt=0, description="Seconds an event may be ahead of the database's clock")
    dead_letter_rate_per_minute: int = Field(1_000, ge=1, description="Equal dead letters a minute; more are held instead")

    held_replay_every_s: float = Field(30, gt=0, description="Seconds between two looks at held letters, and the first pause")
    held_replay_max_pause_s: float = Field(600, gt=0, description="Seconds that equal held letters wait at most, once tried")
    held_letters_per_run: int = Field(5_000, ge=1, description="Held letters that one look replays at most")

    spool_folder: Path | None = Field(None, description="Where producers of this machine spool; empty takes their default")
    adopt_every_s: float = Field(60, gt=0, description="Seconds between two looks for spool files of killed producers")
    adopt_time_limit_s: float = Field(30, gt=0, description="Seconds that one look may send what it found")

    recovery: str = Field(
        "", description="Silence after which records are stale and given up, type=10m/1d, separated by commas"
    )
    recovery_every_s: float = Field(60, gt=0, description="Seconds between two scans for incomplete records")
    recovery_pages_per_run: int = Field(131_072, ge=1, description="Pages (8 KiB) of tables that one scan reads at most")
    recovery_backlog_messages: int = Field(10_000, ge=0, description="Waiting messages above which silence means nothing")
    recovery_offer_pause_s: float = Field(
        60, gt=0, description="Seconds until an incomplete record is offered again; they double"
    )
    recovery_offer_max_pause_s: float = Field(900, gt=0, description="Seconds between two offers at most")
    recovery_keep_days: int = Field(30, ge=1, description="Days that recoveries are listed after their end")

    retention: str = Field(
        "", description="How long rows are kept instead of as declared: type=30d or type=never, separated by commas"
    )
    retention_every_s: float = Field(60, gt=0, description="Seconds between two runs of the purge")
    retention_time_limit_s: float = Field(20, gt=0, description="Seconds one run may take; the next goes on from there")
    retention_rest_s: float = Field(3600, ge=0, description="Seconds between two passes of the purge over all tables")
    retention_work_share: float = Field(0.25, gt=0, le=1, description="Share of that time it works; it pauses for the rest")
    tombstone_days: int = Field(30, ge=1, description="Days that deletes are remembered and missing parents waited for")
    dead_letter_days: int = Field(-1, ge=-1, description="Days that dead letters are kept; -1 keeps them for ever")
    unparsable_letter_days: int = Field(30, ge=0, le=30, description="Days that letters are kept of which nothing can be read")

    backup_folder: Path = Field(Path(".penstock") / "backups", description="Where backups of this database lie")
    backup_keep_days: int = Field(30, ge=-1, description="Days that backups are kept, the newest in any case; -1 for ever")
    backup_key_file: Path | None = Field(None, description="Public keys that backups are encrypted for; empty encrypts none")
    postgres_programs: Path | None = Field(
        None, description="Folder of pg_dump, pg_restore and psql; empty looks beside the embedded server and in the PATH"
    )

    vacuum_time_limit_s: float = Field(3_600, gt=0, description="Seconds after which a run vacuums no further table")
    disk_every_s: float = Field(3_600, gt=0, description="Seconds between two readings of how large tables are")
    disk_readings_days: int = Field(400, ge=8, description="Days that readings are kept, those over a week ago one a day")
    disk_alarm_bytes: int | None = Field(None, ge=1, description="Bytes of the database that are an alarm; unset gives none")
    disk_alarm_days: float = Field(0, ge=0, description="Alarm also where growth leads there within so many days; 0 does not")

    failpoints: str = Field("", description="For tests: name=action pairs, see penstock_worker.ingest.failpoints")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="What is logged")
    log_format: Literal["console", "json"] = Field("console", description="Lines for people, or one JSON object a line")
    probe_address: str = Field("127.0.0.1", description="Where the probe port listens")
    probe_port: int | None = Field(
        None, ge=1, le=65_535, description="Port of /live, /ready and /metrics of a worker or beat; empty opens none"
    )
    ready_check_s: float = Field(10, gt=0, description="Seconds between two looks at the database while no batch is written")
    exporter_port: int = Field(9188, ge=1, le=65_535, description="Port of `penstock exporter`, on the same address")
    flower_port: int | None = Field(None, description="Port of Flower under `penstock up`; empty takes a free one")
    flower_login: SecretStr | None = Field(None, description="user:password of Flower; empty makes a password at each start")

    @field_validator("records", "tasks", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("retention")
    @classmethod
    def _check_retention(cls, value: str) -> str:
        parse_retention(value)
        return value

    @field_validator("recovery")
    @classmethod
    def _check_recovery(cls, value: str) -> str:
        if value:  # those that set it have the worker's extra
            from penstock_worker.store.recovery.rules import read_overrides

            try:
                read_overrides(value)
            except ConfigurationError as exc:
                raise ValueError(str(exc).removeprefix("PENSTOCK_RECOVERY: ")) from exc
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database(cls, value: str | None) -> str | None:
        if value:
            check_database_url(value)
        return value or None

    @field_validator("broker_url")
    @classmethod
    def _check_broker(cls, value: str | None) -> str | None:
        if value and not value.startswith(_BROKER_SCHEMES):
            raise ValueError(f"must begin with {', '.join(_BROKER_SCHEMES)}")
        return value or None

    @property
    def database(self) -> str:
        """The database's URL, with password and TLS; raises ConfigurationError where there is none, or it cannot be right."""
        url = _required(self.database_url, "PENSTOCK_DATABASE_URL", "postgresql://user:password@host/name")
        files = TlsFiles(self.database_tls_ca, self.database_tls_certificate, self.database_tls_key)
        try:
            return join_database_url(url, _text(self.database_password), files)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc

    @property
    def broker(self) -> str:
        """The broker's URL, with password and TLS; raises ConfigurationError where there is none, or it cannot be right."""
        # Here, because commands that ask no broker need not wait for kombu.
        from penstock_producers.transports import check_url
        from penstock_producers.transports.tls import check_tls

        url = _required(self.broker_url, "PENSTOCK_BROKER_URL", "redis://host:6379/0 or amqp://user:password@host//")
        files = TlsFiles(self.broker_tls_ca, self.broker_tls_certificate, self.broker_tls_key)
        try:
            check_url(url)
            url = join_broker_url(url, _text(self.broker_password), files)
            check_tls(url)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc
        return url

    def with_database(self, url: str) -> Settings:
        """The same with another database, whose URL says all that it says itself; the rest is as for the configured one."""
        changes: dict[str, Any] = {"database_url": url}
        if hide_password(url) != url or "password=" in url:
            changes["database_password"] = None
        if re.search(r"\bssl(mode|rootcert|cert)=", url):
            changes |= dict.fromkeys(("database_tls_ca", "database_tls_certificate", "database_tls_key"))
        return self.model_copy(update=changes)

    def describe(self) -> dict[str, Any]:
        """Every setting as JSON has it, without the passwords in URLs."""
        return {name: hide_password(value) for name, value in self.model_dump(mode="json").items()}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given in the call, then the environment, then the files that it names."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _FileSource(settings_cls)


class _FileSource(PydanticBaseSettingsSource):
    """The content of `PENSTOCK_<NAME>_FILE`; ConfigurationError where `PENSTOCK_<NAME>` is set too, or it cannot be read."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """See pydantic-settings."""
        del field
        variable = variable_of(field_name)
        try:
            value = environment.read(variable, os.environ) if environment.file_of(variable, os.environ) else None
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from exc
        return value, field_name, False

    def __call__(self) -> dict[str, Any]:
        """See pydantic-settings."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def variable_of(name: str) -> str:
    """The environment's variable of a setting."""
    return f"PENSTOCK_{name.upper()}"


def load_settings(**overrides: Any) -> Settings:
    """
    Read the settings from the environment, URLs also from a running stack of this folder.

    Raises:
        ConfigurationError: A setting has a wrong value; the message names it.
    """
    try:
        settings = Settings(**overrides)
    except ValidationError as exc:
        error = exc.errors()[0]
        name = variable_of("_".join(str(part) for part in error["loc"]))
        raise ConfigurationError(f"{name}: {error['msg'].removeprefix('Value error, ')}") from exc
    if settings.broker_url or settings.database_url:
        return settings
    return settings.model_copy(update=_running_stack())


def hide_password(value: Any) -> Any:
    """
    A URL without its password, and whatever is no URL as it is.

    A password may have signs in it that should be escaped in a URL and are not, so that its end is the last `@`.
    """
    if not isinstance(value, str) or "://" not in value:
        return value
    scheme, _, rest = value.partition("://")
    secrets, at, place = rest.rpartition("@")
    user, colon, _ = secrets.partition(":")
    return re.sub(
        rf"([?&](?:password|{'|'.join(SECRET_OPTIONS)})=)[^&]*", r"\1***", f"{scheme}://{user}{colon and ':***'}{at}{place}"
    )


def _running_stack() -> dict[str, str]:
    try:
        stack = json.loads(STACK_FILE.read_text()) if _is_locked(LOCK_FILE) else {}
    except (OSError, ValueError):
        return {}
    return {name: stack[name] for name in ("broker_url", "database_url") if name in stack}


def _is_locked(file: Path) -> bool:
    with file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _text(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _required(value: str | None, name: str, example: str) -> str:
    if value is None:
        raise ConfigurationError(f"{name} is not set and no `penstock up` runs in this folder: set it to {example}")
    return value
