"""dgq schedule add, list, remove: what is kept, what is said, what is refused."""

import json
import os

import pytest
from click.testing import CliRunner

from dgq.worker.commands.schedule_command import schedule
from dgq.worker.commands.scheduler_command import scheduler
from tests.worker.fleet.scheduling import Queue
from tests.worker.servers import RealServer


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with RealServer(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def queue(server, tmp_path):
    made = Queue(server.url, tmp_path)
    made.client.redis.flushall()
    yield made
    made.close()


@pytest.fixture
def dgq(server, tmp_path, monkeypatch):
    """Run ``dgq schedule …`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DGQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DGQ_REDIS_URL", server.url)

    def run(*args, code=0):
        result = CliRunner().invoke(schedule, [str(arg) for arg in args])
        assert result.exit_code == code, result.stderr
        return result

    return run


def test_add_list_remove(dgq, queue, tmp_path):
    queue.write_jobs("jobs.jsonl", 1)
    added = dgq(
        "add", "nightly", "--cron", "0 2 * * *", "--timezone", "Europe/Berlin", "jobs.jsonl"
    )
    assert added.stdout == ""
    assert "schedule nightly fires next at 20" in added.stderr and " 02:00 +0" in added.stderr
    assert "exist" not in added.stderr

    listed = dgq("list")
    assert "nightly" in listed.stdout and "0 2 * * * (Europe/Berlin)" in listed.stdout
    assert "never" in listed.stdout
    (row,) = json.loads(dgq("list", "--json").stdout)
    assert row == {
        "name": "nightly",
        "cron": "0 2 * * *",
        "timezone": "Europe/Berlin",
        "files": [str(tmp_path / "jobs.jsonl")],
        "model_name": "default",
        "priority": 0,
        "seed": None,
        "max_attempts": None,
        "catch_up_s": 3600,
        "next": row["next"],
        "last": None,
    }
    assert "nightly is removed" in dgq("remove", "nightly").stderr
    assert "there is no schedule nightly" in dgq("remove", "nightly", code=1).stderr
    assert "there are no schedules" in dgq("list").stderr
    assert json.loads(dgq("list", "--json").stdout) == []


def test_all_options_are_kept(dgq, queue):
    options = "--model-name big --priority -5 --seed 7 --max-attempts 2 --catch-up-s 60".split()
    dgq("add", "x", "--cron", "@hourly", *options, "/a.jsonl", "/data/*.jsonl")
    kept = queue.known("x").schedule
    assert (kept.label, kept.priority, kept.seed, kept.max_attempts) == ("big", -5, 7, 2)
    assert (kept.catch_up_s, kept.timezone) == (60, "UTC")
    assert kept.files == ("/a.jsonl", "/data/*.jsonl")
    assert kept.created_s == pytest.approx(queue.ledger.redis.time()[0], abs=60)


def test_missing_files_are_a_warning(dgq, queue):
    added = dgq("add", "x", "--cron", "@daily", "nowhere.jsonl", "none/*.jsonl")
    assert added.stderr.count("the scheduler needs it when the schedule fires") == 2
    assert "nowhere.jsonl does not exist" in added.stderr
    assert queue.known("x")


def test_says_that_both_days_must_match(dgq, queue):
    added = dgq("add", "x", "--cron", "0 2 1 * mon", "a.jsonl")
    assert "match both the day of the month and the day of the week" in added.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["x", "--cron", "61 * * * *", "a"], "the minute makes no sense"),
        (["x", "--cron", "@daily", "--timezone", "Mars", "a"], "'Mars' is not a time zone"),
        (["x y", "--cron", "@daily", "a"], "'x y' is no name"),
        (["x:last", "--cron", "@daily", "a"], "'x:last' is no name"),
        (["x", "--cron", "@daily", "-"], "cannot read standard input"),
        (["x", "--cron", "@daily", "--model-name", "a b", "a"], "a model's name is"),
        (["x", "--cron", "@daily", "--priority", "101", "a"], "--priority"),
        (["x", "--cron", "@daily"], "FILE..."),
        (["x", "a"], "--cron"),
        (["x", "--cron", "@daily", "\udcff"], "UTF-8"),
    ],
)
def test_refusals(dgq, queue, args, words):
    refused = dgq("add", *args, code=2)
    assert words in refused.stderr
    assert not queue.schedules.read().schedules


def test_a_name_is_taken_once(dgq, queue):
    dgq("add", "x", "--cron", "@daily", "a.jsonl")
    again = dgq("add", "x", "--cron", "@hourly", "a.jsonl", code=2)
    assert "remove it first: dgq schedule remove x" in again.stderr
    assert queue.known("x").schedule.cron == "@daily"


def test_lists_what_became_of_the_last_firing(dgq, queue):
    queue.add("good", queue.write_jobs("a.jsonl", 3))
    queue.add("bad", queue.folder / "nowhere.jsonl")
    queue.schedules.time_s += 3600
    queue.fire(queue.scheduler(), "good", "bad")
    (batch,) = queue.batches()
    listed = dgq("list")
    assert f"batch {batch.id}, 3 jobs" in listed.stdout
    assert "failed: " in listed.stdout and "nowhere.jsonl does not exist" in listed.stdout
    bad, good = json.loads(dgq("list", "--json").stdout)
    assert good["last"] == {
        "due": "2026-11-25T02:00:00Z",
        "state": "submitted",
        "batch": batch.id,
        "num_jobs": 3,
        "message": None,
    }
    assert (bad["last"]["state"], bad["last"]["batch"]) == ("failed", None)


def test_says_when_nobody_serves_the_schedules(dgq, queue):
    queue.add("x", "/a.jsonl", cron="* * * * *", created_s=1_700_000_000.0)
    assert "schedule x should have fired at 2023-11-14 22:14 +0000" in dgq("list").stderr


def test_what_cannot_be_read_is_said(dgq, queue):
    queue.client.redis.hset(queue.ledger.keys.schedules, "torn", b"{")
    assert "schedule torn is no use here" in dgq("list").stderr
    dgq("remove", "torn")


def test_no_server(dgq, monkeypatch):
    monkeypatch.setenv("DGQ_REDIS_URL", "redis://127.0.0.1:1")
    for args in (["list"], ["remove", "x"], ["add", "x", "--cron", "@daily", "a"]):
        assert len(dgq(*args, code=7).stderr.splitlines()) == 1


def test_help_of_the_scheduler():
    """It is run in tests/worker/fleet/test_scheduler_process.py."""
    assert "each firing is still made once" in " ".join(
        CliRunner().invoke(scheduler, ["--help"]).stdout.split()
    )
