"""Real servers in every state that a user may point us at; each gives one clear line."""

import shutil
import socket
import threading
import time

import pytest
import redis
from pydantic import SecretStr

from dgq.worker.ledger.connection import connect, server_error
from dgq.worker.settings import load_settings
from tests.worker.ledger.refusal import refusal, settings
from tests.worker.servers import Answering, RealServer, binaries, free_port

EVERY_SERVER = pytest.mark.parametrize("binary", binaries())


def reply_to(client, given, *command):
    """The line made of what the server answers to a command."""
    with pytest.raises(redis.RedisError) as caught:
        client.execute_command(*command)
    return str(server_error(caught.value, given))


@EVERY_SERVER
@pytest.mark.parametrize("unix", [False, True], ids=["port", "socket"])
def test_it_connects_and_shows_its_name(tmp_path, binary, unix):
    with (
        RealServer(tmp_path, binary=binary, unix=unix) as server,
        connect(settings(server.url), client_name="dgq-test") as client,
    ):
        assert client.set("key", b"\x00value") and client.get("key") == b"\x00value"
        assert "dgq-test" in [one["name"] for one in client.client_list()]


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_a_database_and_an_alias_in_the_url(tmp_path, scheme):
    with RealServer(tmp_path) as server:
        with connect(settings(f"{scheme}://127.0.0.1:{server.port}/3")) as client:
            client.set("key", 1)
        assert server.client(db=3).get("key") == b"1"


def test_no_server_is_said_with_the_origin_of_its_url(monkeypatch):
    monkeypatch.setenv("DGQ_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    words = ["Connection refused", "(from environment DGQ_REDIS_URL)"]
    refusal(load_settings(), *words)


def test_neither_a_server_nor_a_private_one(tmp_path):
    refusal(settings(None, data_folder=tmp_path), "DGQ_REDIS_URL", "dgq up")


def test_an_unknown_host_and_a_missing_socket(tmp_path):
    refusal(settings("redis://no-such-host.invalid:6379"), "no-such-host.invalid")
    refusal(settings(f"unix://{tmp_path}/none.sock"), "none.sock", "No such file")


@EVERY_SERVER
def test_passwords(tmp_path, binary):
    with RealServer(tmp_path, binary=binary, password="right") as server:
        bare = f"redis://127.0.0.1:{server.port}"
        refusal(settings(bare), "wants a password", "DGQ_REDIS_PASSWORD")
        line = refusal(settings(bare.replace("//", "//:wrong@")), "refuses the user name or passwo")
        assert "wrong" not in line
        with connect(settings(bare, redis_password=SecretStr("right"))) as client:
            assert client.ping()
        with connect(settings(server.url, redis_password=SecretStr("wrong"))) as client:
            assert client.ping()  # the URL's own wins


def test_a_password_where_none_is_set(tmp_path):
    with RealServer(tmp_path) as server:
        given = settings(f"redis://:some@127.0.0.1:{server.port}")
        refusal(given, "has no password, but one is given")


@EVERY_SERVER
def test_an_acl_user_without_rights(tmp_path, binary):
    users = ["bob on >p%b ~dgq:* +@all -info -xadd", "eve on >e ~* +@all -ping"]
    with RealServer(tmp_path, binary=binary, users=users) as server:
        by_name = settings(
            f"redis://127.0.0.1:{server.port}",
            redis_username="bob",
            redis_password=SecretStr("p%b"),
        )
        with connect(by_name) as client:  # INFO is not needed
            client.set("dgq:key", 1)
            assert "run xadd" in reply_to(client, by_name, "XADD", "dgq:s", "*", "a", "b")
            line = reply_to(client, by_name, "SET", "other", "1")
            assert "touch dgq's keys" in line and "~dgq:*" in line
            script = "return redis.call('xadd', KEYS[1], '*', 'a', 'b')"
            line = reply_to(client, by_name, "EVAL", script, 1, "dgq:s")
            assert "xadd" in line or "does not let this user" in line
        refusal(settings(f"redis://eve:e@127.0.0.1:{server.port}"), "run ping", "ACL SETUSER")


@EVERY_SERVER
def test_a_full_server(tmp_path, binary):
    limits = {"maxmemory": "4mb", "maxmemory_policy": "noeviction"}
    with RealServer(tmp_path, binary=binary, **limits) as server:
        given = settings(server.url)
        with connect(given) as client:
            with pytest.raises(redis.RedisError):
                for number in range(100):
                    client.set(f"key{number}", b"x" * 100_000)
            assert "is full" in reply_to(client, given, "SET", "key", "x" * 100_000)
            script = "return redis.call('set', KEYS[1], ARGV[1])"
            assert "is full" in reply_to(client, given, "EVAL", script, 1, "key", "x" * 100_000)


@EVERY_SERVER
def test_a_server_that_cannot_save(tmp_path, binary):
    with RealServer(tmp_path / "data", binary=binary, save='"3600 1"') as server:
        given = settings(server.url)
        with connect(given) as client:
            client.set("key", 1)
            shutil.rmtree(tmp_path / "data")
            client.bgsave()
            deadline = time.monotonic() + 20
            while client.info("persistence")["rdb_last_bgsave_status"] != "err":
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert "cannot save its data" in reply_to(client, given, "SET", "key", "2")


def test_a_replica(tmp_path):
    with (
        RealServer(tmp_path / "primary") as primary,
        RealServer(tmp_path / "replica", replicaof=f"127.0.0.1 {primary.port}") as replica,
        connect(settings(replica.url)) as client,
    ):
        assert "read-only replica" in reply_to(client, settings(replica.url), "SET", "key", "1")


@EVERY_SERVER
def test_a_cluster(tmp_path, binary):
    with RealServer(tmp_path, binary=binary, cluster_enabled="yes") as server:
        refusal(settings(server.url), "cluster", "DGQ_REDIS_URL")


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"redis_version": "6.0.16", "redis_mode": "standalone"}, ["6.0.16", "6.2"]),
        ({"redis_version": "5.0.7"}, ["5.0.7", "update"]),
        ({"redis_version": "7.0.0", "redis_mode": "sentinel"}, ["Sentinel"]),
    ],
)
def test_old_versions_and_sentinels(tmp_path, monkeypatch, info, words):
    monkeypatch.setattr(redis.Redis, "info", lambda self, *sections: info)
    with RealServer(tmp_path) as server:
        refusal(settings(server.url), *words)


@pytest.mark.parametrize("version", ["6.2.0", "6.10.1", "7.2.4", "8.0-rc1", "unstable", ""])
def test_versions_that_will_do(tmp_path, monkeypatch, version):
    monkeypatch.setattr(redis.Redis, "info", lambda self, *sections: {"redis_version": version})
    with RealServer(tmp_path) as server:
        connect(settings(server.url)).close()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ["is no Redis server"]),
        (b"220 mail.example.org ESMTP\r\n", ["is no Redis server"]),
        (b"", ["hangs up at once", "rediss://"]),
        (b"-LOADING Redis is loading the dataset in memory\r\n", ["still loading"]),
        (b"-ERR max number of clients reached\r\n", ["no room for another client"]),
        (b"-DENIED Redis is running in protected mode because\r\n", ["protected mode"]),
        (b"-ERR unknown command `PING`, with args beginning with:\r\n", ["PING", "6.2"]),
    ],
)
def test_what_else_may_listen_there(answer, words):
    with Answering(answer) as port:
        refusal(settings(f"redis://127.0.0.1:{port}", connect_timeout_s=0.3), *words)


def test_one_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        given = settings(f"redis://127.0.0.1:{port}", connect_timeout_s=0.2)
        refusal(given, "does not answer in time")


def test_while_it_loads_we_wait(tmp_path):
    with RealServer(tmp_path, appendonly="yes", key_load_delay=20_000) as server:
        with connect(settings(server.url)) as client:
            for number in range(50):
                client.set(f"key{number}", number)
        server.kill()
        server.start(wait=False)
        while not listens(server.port):
            time.sleep(0.01)
        with connect(settings(server.url, connect_timeout_s=30.0)) as client:
            assert client.get("key49") == b"49"


def test_a_restart_between_two_calls_is_not_noticed(tmp_path):
    with (
        RealServer(tmp_path, appendonly="yes", appendfsync="always") as server,
        connect(settings(server.url)) as client,
    ):
        client.set("key", 1)
        server.kill()
        again = threading.Timer(0.05, server.start)
        again.start()
        try:
            assert client.get("key") == b"1"
        finally:
            again.join()
        server.client().client_kill_filter(_type="normal", skipme=True)
        assert client.get("key") == b"1"


def test_a_server_that_went_away(tmp_path):
    with RealServer(tmp_path) as server:
        given = settings(server.url)
        with connect(given) as client:
            server.kill()
            assert "still running" in reply_to(client, given, "PING")


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
