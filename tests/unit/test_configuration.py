"""Settings from environment and files, URLs put together from their parts, `penstock config show`, which tells no secret."""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from penstock_producers import NotConfigured, default, environment
from penstock_producers.broker_url import TlsFiles, broker_url_from, join_broker_url
from penstock_producers.transports.redis_url import redis_arguments
from penstock_producers.transports.tls import broker_connection, celery_broker, check_tls
from penstock_producers.transports.tls_errors import say_tls_error
from penstock_worker.app import create_app
from penstock_worker.celery_app import celery_for
from penstock_worker.database_url import join_database_url
from penstock_worker.errors import ConfigurationError
from penstock_worker.settings import Settings, load_settings
from penstock_worker.stack.commands import service_environment
from tests.commands import penstock_here

#: With every sign that means something in a URL.
SECRET = "s3cr:e/t@%?#& ü"
ESCAPED = "s3cr%3Ae%2Ft%40%25%3F%23%26%20%C3%BC"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    authority = trustme.CA()
    found = TlsFiles(tmp_path / "ca.pem", tmp_path / "our.pem", tmp_path / "our.key")
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(found.ca))
    certificate.cert_chain_pems[0].write_to_path(str(found.certificate))
    certificate.private_key_pem.write_to_path(str(found.key))
    return found


# -- from files


def test_every_setting_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"broker_url": "redis://h/0", "broker_password": f"{SECRET}", "concurrency": "7", "records": "a, b"}
    for name, value in given.items():
        (tmp_path / name).write_text(value + "\n")
        monkeypatch.setenv(f"PENSTOCK_{name.upper()}_FILE", str(tmp_path / name))
    settings = load_settings()
    assert settings.broker == f"redis://:{ESCAPED}@h/0"
    assert (settings.concurrency, settings.records) == (7, ("a", "b"))
    monkeypatch.setenv("PENSTOCK_BACKUP_KEY_FILE", "keys")  # a setting that is called so, and no file of one
    assert load_settings().backup_key_file == Path("keys")


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("a", "a"),
        ("a\n", "a"),
        ("a\r\n", "a"),
        ("a\n\n", "a\n"),
        (" a ", " a "),
        ("\n", None),
        ("", None),
        ("\ufeffa\r\n", "a"),
    ],
)
def test_only_the_last_newline_goes_and_the_mark_of_an_editor(content: str, value: str | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(content, newline="")
    assert environment.read("X", {"X_FILE": str(tmp_path / "file")}) == value


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "PENSTOCK_DATABASE_PASSWORD_FILE: {file} cannot be read: No such file or directory"),
        (b"\xff", "PENSTOCK_DATABASE_PASSWORD_FILE: {file} is no text in UTF-8"),
        (b"a\0b", "PENSTOCK_DATABASE_PASSWORD_FILE: {file} is no text in UTF-8"),
        ("folder", "PENSTOCK_DATABASE_PASSWORD_FILE: {file} cannot be read: Is a directory"),
    ],
)
def test_a_file_that_is_no_secret(content: Any, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("PENSTOCK_DATABASE_PASSWORD_FILE", str(file))
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(caught.value) == line.format(file=file)


def test_given_twice_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("3")
    monkeypatch.setenv("PENSTOCK_CONCURRENCY_FILE", str(tmp_path / "file"))
    monkeypatch.setenv("PENSTOCK_CONCURRENCY", "4")
    with pytest.raises(
        ConfigurationError, match=r"^PENSTOCK_CONCURRENCY and PENSTOCK_CONCURRENCY_FILE are both set: keep one$"
    ):
        load_settings()
    monkeypatch.setenv("PENSTOCK_CONCURRENCY", "")  # as compose files leave it
    assert load_settings().concurrency == 3


def test_the_modules_own_producer_takes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: TlsFiles) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "rediss://h/0")
    monkeypatch.setenv("PENSTOCK_BROKER_PASSWORD_FILE", str(tmp_path / "password"))
    monkeypatch.setenv("PENSTOCK_BROKER_TLS_CA", str(files.ca))
    assert default._url(None) == f"rediss://:{ESCAPED}@h/0?ssl_ca_certs={files.ca}" == load_settings().broker
    monkeypatch.setenv("PENSTOCK_BROKER_TLS_CA", "nowhere.pem")
    with pytest.raises(NotConfigured, match=r"PENSTOCK_BROKER_TLS_CA: nowhere\.pem cannot be read"):
        default._url(None)
    assert broker_url_from({}) is None


# -- put together


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_brokers_password_arrives_as_it_is(scheme: str) -> None:
    connection = broker_connection(join_broker_url(f"{scheme}://ann@h:1//", SECRET, TlsFiles()))
    assert (connection.userid, connection.password, connection.hostname, connection.port) == ("ann", SECRET, "h", 1)
    arguments = redis_arguments(join_broker_url("redis://h", SECRET, TlsFiles()), socket_timeout_s=1, connect_timeout_s=1)
    assert (arguments["host"], arguments["password"]) == ("h", SECRET)


@pytest.mark.parametrize(
    "url", ["postgresql://ann@h:1/d", "postgresql://h/d", "postgresql:///d?host=/run", "postgresql://a@[::1],h:2/d"]
)
def test_a_databases_password_arrives_as_it_is(url: str) -> None:
    from psycopg.conninfo import conninfo_to_dict

    before = conninfo_to_dict(url)
    assert conninfo_to_dict(join_database_url(url, SECRET, TlsFiles())) == before | {"password": SECRET}


def test_the_databases_files_make_tls_a_must(files: TlsFiles) -> None:
    from psycopg.conninfo import conninfo_to_dict

    found = conninfo_to_dict(join_database_url("postgresql://h/d?application_name=x", None, files))
    assert found == {
        "host": "h",
        "dbname": "d",
        "application_name": "x",
        "sslmode": "verify-full",
        "sslrootcert": str(files.ca),
        "sslcert": str(files.certificate),
        "sslkey": str(files.key),
    }
    of_system = join_database_url("postgresql://h/d", None, TlsFiles(ca=Path("system")))
    assert of_system == "postgresql://h/d?sslmode=verify-full&sslrootcert=system"
    weaker = join_database_url("postgresql://h/d?sslmode=verify-ca", None, TlsFiles(ca=files.ca))
    assert weaker == f"postgresql://h/d?sslmode=verify-ca&sslrootcert={files.ca}"


@pytest.mark.parametrize(
    ("kind", "url", "given", "line"),
    [
        ("broker", "redis://:a@h", {"password": "b"}, "BROKER_PASSWORD is set, and PENSTOCK_BROKER_URL has a password too"),
        ("broker", "redis://h", {"tls_ca": "ca"}, "redis:// is without TLS, write rediss:// in PENSTOCK_BROKER_URL"),
        ("broker", "amqp://h", {"tls_ca": "ca"}, "amqp:// is without TLS, write amqps:// in PENSTOCK_BROKER_URL"),
        ("broker", "amqps://h?ssl_ca_certs=x", {"tls_ca": "ca"}, "PENSTOCK_BROKER_URL has ssl_ca_certs too: keep one"),
        ("broker", "amqps://h", {"tls_ca": "no"}, "PENSTOCK_BROKER_TLS_CA: no cannot be read: No such file"),
        ("broker", "amqps://h", {"tls_key": "key"}, "set PENSTOCK_BROKER_TLS_CERTIFICATE to its certificate"),
        ("broker", "amqps://h", {"tls_ca": "key"}, "key has no certificates"),
        ("broker", "amqps://h", {"tls_certificate": "cert", "tls_key": "other"}, "the key is not this certificate's"),
        ("broker", "redis://h?ssl_cert_reqs=none", {}, "ssl_cert_reqs is for rediss://, which speaks TLS"),
        ("broker", "amqps://h?ssl_ca_data=x", {}, "ssl_ca_data is not known"),
        ("database", "postgresql://u:a@h", {"password": "b"}, "DATABASE_PASSWORD is set, and PENSTOCK_DATABASE_URL has a"),
        ("database", "postgresql://h?password=a", {"password": "b"}, "PENSTOCK_DATABASE_URL has a password too: keep one"),
        ("database", "postgresql://h?sslmode=prefer", {"tls_ca": "ca"}, "says sslmode=prefer, which may do without"),
        ("database", "postgresql://h?sslrootcert=x", {"tls_ca": "ca"}, "PENSTOCK_DATABASE_URL has sslrootcert too"),
        ("database", "postgresql://h", {"tls_ca": "no"}, "PENSTOCK_DATABASE_TLS_CA: no cannot be read"),
        ("database", "postgresql://h", {"tls_certificate": "cert"}, "whom is it for? set PENSTOCK_DATABASE_TLS_CA"),
    ],
)
def test_what_does_not_fit_is_one_line(
    kind: str, url: str, given: dict[str, str], line: str, files: TlsFiles, tmp_path: Path
) -> None:
    names = {"ca": files.ca, "cert": files.certificate, "key": files.key, "other": tmp_path / "other.key"}
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(str(names["other"]))
    values = {f"{kind}_{name}": names.get(value, value) for name, value in given.items()}
    with pytest.raises(ConfigurationError) as caught:
        getattr(load_settings(**{f"{kind}_url": url}, **values), kind)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_database_brings_its_own(files: TlsFiles) -> None:
    """`penstock restore --into`: what its URL says counts, and what it leaves out is as for the configured one."""
    configured = load_settings(database_url="postgresql://h/d", database_password="a", database_tls_ca=files.ca)
    tls = f"sslmode=verify-full&sslrootcert={files.ca}"
    assert configured.with_database("postgresql://h/other").database == f"postgresql://:a@h/other?{tls}"
    assert configured.with_database("postgresql://u:b@h/other").database == f"postgresql://u:b@h/other?{tls}"
    mine = "postgresql://u:b@h/other?sslmode=disable"
    assert configured.with_database(mine).database == mine
    words = "host=h dbname=other password=a sslmode=verify-full"  # as a restore names its scratch database
    assert configured.with_database(words).database == words


# -- TLS to the broker


def test_every_library_verifies_unless_the_url_says_otherwise(caplog: pytest.LogCaptureFixture) -> None:
    assert celery_broker("redis://h/0") == {"broker_url": "redis://h/0", "broker_use_ssl": False}
    assert celery_broker("rediss://h/0?ssl_ciphers=HIGH&x=1") == {
        "broker_url": "rediss://h/0?x=1",
        "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ciphers": "HIGH"},
    }
    assert celery_broker("amqps://localhost//?ssl_min_version=771") == {
        "broker_url": "amqps://localhost//",
        "broker_use_ssl": {
            "cert_reqs": ssl.CERT_REQUIRED,
            "server_hostname": "localhost",
            "tls_minimum_version": ssl.TLSVersion.TLSv1_2,
        },
    }
    assert caplog.messages == []
    anyone = celery_broker("amqps://unchecked//?ssl_cert_reqs=none")["broker_use_ssl"]
    assert anyone == {"cert_reqs": ssl.CERT_NONE}
    check_tls("amqps://unchecked//?ssl_cert_reqs=none")
    check_tls("rediss://unchecked/?ssl_check_hostname=false")
    assert caplog.messages == [  # once each
        "amqps://unchecked: the broker's certificate is not checked, because the URL says so",
        "rediss://unchecked: the broker's name is not checked, because the URL says so",
    ]


def test_celerys_own_environment_names_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another application's on many a host, and goes before what Celery is told."""
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://elsewhere/1")
    settings = Settings(broker_url="redis://here:1/2", database_url="postgresql://there/d")
    with create_app(settings) as app, celery_for("asks", settings.broker) as other:
        made = [
            one for each in (app, other) for one in (each.connection(), each.connection_for_read(), each.connection_for_write())
        ]
    assert {connection.hostname for connection in made} == {"here"}


def test_an_error_that_is_not_of_tls_keeps_its_words() -> None:
    assert say_tls_error(OSError("Connection refused")) is None
    inner = ssl.SSLError("[SSL: WRONG_VERSION_NUMBER] wrong version number")
    outer = RuntimeError("could not connect")
    outer.__cause__ = inner
    assert say_tls_error(outer) == "TLS: it speaks no TLS on this port: use the port with TLS"


# -- children


def test_a_childs_environment_gets_what_it_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "url").write_text("postgresql://u:a@h/d\n")
    monkeypatch.setenv("PENSTOCK_DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("PENSTOCK_BROKER_URL", "redis://h")
    settings = load_settings(concurrency=2)
    assert service_environment(settings) == {"PENSTOCK_CONCURRENCY": "2"}
    found = settings.model_copy(update={"database_url": "postgresql://u:b@h/found", "broker_password": SecretStr("c")})
    assert service_environment(found) == {
        "PENSTOCK_DATABASE_URL": "postgresql://u:b@h/found",
        "PENSTOCK_DATABASE_URL_FILE": "",
        "PENSTOCK_BROKER_PASSWORD": "c",
        "PENSTOCK_CONCURRENCY": "2",
    }


# -- config show


def test_config_show_says_where_each_setting_comes_from(tmp_path: Path) -> None:
    (tmp_path / "login").write_text("ann:secret-of-flower")
    done = penstock_here(
        "config",
        "show",
        "--json",
        PENSTOCK_BROKER_URL="rediss://ann:secret-of-broker@h/0?ssl_password=secret-of-key",
        PENSTOCK_DATABASE_URL="",
        PENSTOCK_DATABASE_URL_FILE=str(_file(tmp_path, "postgresql://ann:secret-of-database@h/d?password=secret-too")),
        PENSTOCK_FLOWER_LOGIN_FILE=str(tmp_path / "login"),
        PENSTOCK_CONCURRENCY="4",
    )
    assert done.returncode == 0, done.stderr
    shown = {one["variable"]: one for one in json.loads(done.stdout)["settings"]}
    assert list(shown) == [f"PENSTOCK_{name.upper()}" for name in Settings.model_fields]
    changed = {name: (one["value"], one["origin"]) for name, one in shown.items() if one["origin"] != "default"}
    assert changed == {
        "PENSTOCK_BROKER_URL": ("rediss://ann:***@h/0?ssl_password=***", "environment"),
        "PENSTOCK_DATABASE_URL": ("postgresql://ann:***@h/d?password=***", "file"),
        "PENSTOCK_CONCURRENCY": (4, "environment"),
        "PENSTOCK_FLOWER_LOGIN": ("***", "file"),
    }
    assert shown["PENSTOCK_FLOWER_LOGIN"]["file"] == str(tmp_path / "login")
    assert "secret" not in done.stdout


def test_config_show_knows_a_running_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock_worker import settings

    monkeypatch.setattr(settings, "_running_stack", lambda: {"broker_url": "redis://:secret@h/0"})
    done = penstock_here("config", "show", "--set", PENSTOCK_BROKER_URL="", PENSTOCK_DATABASE_URL="")
    words = done.stdout.split()
    assert words[-4:] == ["PENSTOCK_BROKER_URL", "redis://:***@h/0", "running", "stack"]


def test_config_check_says_what_cannot_be_used() -> None:
    done = penstock_here("config", "check", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert [(name, found[name]["is_usable"]) for name in found] == [("broker", False), ("database", False)]
    assert found["broker"]["trouble"].startswith("the broker cannot be reached: ")
    assert "Connection refused" in found["database"]["trouble"]


def test_commands_without_settings_read_files_too(tmp_path: Path) -> None:
    done = penstock_here("publish", "-", PENSTOCK_QUEUE_FILE=str(tmp_path / "none"))
    assert (done.returncode, "PENSTOCK_QUEUE_FILE: " in done.stderr) == (2, True)
    done = penstock_here("publish", "-", PENSTOCK_BROKER_URL="", PENSTOCK_BROKER_URL_FILE=str(tmp_path / "none"))
    assert (done.returncode, "PENSTOCK_BROKER_URL_FILE: " in done.stderr) == (2, True)


def _file(folder: Path, text: str) -> Path:
    file = folder / "value"
    file.write_text(text)
    return file
