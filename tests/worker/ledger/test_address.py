"""URLs: which make sense, how they are shown, and what Celery makes of them."""

import re

import pytest
from kombu.connection import Connection
from pydantic import SecretStr

from dgq.worker.errors import UsageFault
from dgq.worker.ledger.connection import broker_url, connect, masked
from tests.worker.ledger.refusal import refusal, settings
from tests.worker.servers import RealServer, binaries


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://host:port", ["host or port"]),
        ("redis://host:0", ["host or port"]),
        ("redis://:pa/ss@host:1", ["%2F"]),
        ("redis://host/zero", ["a database is a number"]),
        ("unix://relative/path", ["absolute path"]),
        ("redis://host?no_such_option=1", ["no_such_option"]),
        ("redis://host?socket_timeout=long", ["socket_timeout"]),
    ],
)
def test_urls_that_make_no_sense(url, words):
    line = refusal(settings(url), *words, kind=UsageFault)
    assert "pa/ss" not in line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:1/0", "redis://host:1/0"),
        ("redis://:secret@host:1/0", "redis://:***@host:1/0"),
        ("rediss://bob:se@c/r#et@host", "rediss://bob:***@host"),
        ("unix://:secret@/a/b.sock?db=1", "unix://:***@/a/b.sock?db=1"),
        ("redis://host?password=secret&db=1", "redis://host?password=***&db=1"),
        ("rediss://host?db=1&ssl_password=secret", "rediss://host?db=1&ssl_password=***"),
    ],
)
def test_passwords_are_masked(url, shown):
    assert masked(url) == shown


@pytest.mark.parametrize("binary", binaries())
@pytest.mark.parametrize("unix", [False, True], ids=["port", "socket"])
def test_the_broker_takes_the_same_server(tmp_path, binary, unix):
    with RealServer(tmp_path, binary=binary, unix=unix, password="p;/ %@:") as server:
        bare = re.sub("//.*@", "//", server.url)
        given = settings(bare, redis_password=SecretStr(server.password))
        with connect(given) as client, Connection(broker_url(given)) as broker:
            broker.default_channel.client.set("key", 1)
            assert client.get("key") == b"1"


def test_the_broker_in_another_database_and_of_another_kind():
    given = settings("redis://host/0", broker_url="valkey://other:1/4")
    assert broker_url(given) == "redis://other:1/4"
    given = settings("redis://host/0", broker_url="amqp://guest@rabbit//")
    assert broker_url(given) == "amqp://guest@rabbit//"
    assert broker_url(settings("unix:///s?db=2")) == "redis+socket:///s?virtual_host=2"
    assert broker_url(settings("redis://h?socket_timeout=3")) == "redis://h/0"
