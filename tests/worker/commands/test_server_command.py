"""The flag --redis-url: which commands have it, and that it is stronger than all else."""

import pytest

from dgq.worker import exit_codes
from dgq.worker.cli import COMMANDS, cli
from tests.worker.servers import free_port

NO_SERVER = {"run", "bench", "verify", "config", "completion", "quantize"}


def commands(names, group, path=()):
    for name in names:
        command = group.get_command(None, name)
        if hasattr(command, "commands"):
            yield from commands(command.commands, command, (*path, name))
        else:
            yield (*path, name), command


TALKING = [
    pytest.param(command, id=" ".join(path))
    for path, command in commands(COMMANDS, cli)
    if path[0] not in NO_SERVER
]


@pytest.mark.parametrize("command", TALKING)
def test_every_command_that_talks_to_a_server_has_the_flag(command):
    (option,) = [one for one in command.params if one.name == "redis_url"]
    assert option.opts == ["--redis-url"]


def test_the_flag_wins(dgq, server, jobs_file, rewrite, monkeypatch):
    jobs_file(rewrite("a"))
    monkeypatch.setenv("DGQ_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    assert dgq("submit", "jobs.jsonl").code == exit_codes.SERVER
    batch_id = dgq("submit", "jobs.jsonl", "-q", "--redis-url", server.url).out.strip()
    assert dgq("status", "last").code == exit_codes.SERVER
    assert batch_id in dgq("status", "last", "--redis-url", server.url).out


def test_a_wrong_one_is_one_line(dgq, server):
    done = dgq("list", "--redis-url", "localhost")
    assert (done.code, done.out) == (exit_codes.USAGE, "")
    assert done.err == (
        "dgq: --redis-url must be a URL: redis://, rediss:// (TLS) or unix:///path\n"
    )
    url = f"redis://127.0.0.1:{free_port()}"
    done = dgq("list", "--redis-url", url)
    assert done.code == exit_codes.SERVER
    assert done.err.startswith(f"dgq: cannot reach the Redis server at {url}: Connection refused")


def test_what_it_says_to_type_next_names_the_server_again(
    dgq, server, jobs_file, rewrite, monkeypatch
):
    jobs_file(rewrite("a"))
    monkeypatch.delenv("DGQ_REDIS_URL")
    flag = ("--redis-url", server.url)
    said = dgq("submit", "jobs.jsonl", *flag).err.splitlines()
    dgq("pause", "last", *flag)
    said += dgq("watch", "last", "--timeout", "0.1", *flag).err.splitlines()
    dgq("resume", "last", *flag)
    said += dgq("watch", "last", "--timeout", "0.1", *flag).err.splitlines()
    assert len(said) == 5  # of submit 1; twice of watch what holds it up, and the time-out
    for line in said:
        assert line.endswith(f" --redis-url {server.url}")


def test_a_password_is_not_repeated(dgq, server, jobs_file, rewrite):
    jobs_file(rewrite("a"))
    url = server.url.replace("://", "://default:secret@")
    done = dgq("submit", "jobs.jsonl", "--redis-url", url)
    assert done.code == exit_codes.OK, done.err
    assert "://default:***@" in done.err and "secret" not in done.err
