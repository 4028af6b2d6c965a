"""``dgq run --dry-run``: bad lines, counts for each kind, and an estimate, without a model."""

import json

import pytest

from dgq.worker import exit_codes, host
from dgq.worker.dry_run import dry_run


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with what an estimate needs of a checkpoint; it has no weights."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_text((host.SHIPPED_MODEL_PATH / name).read_text())
    for name in ("config.json", "generation_config.json"):
        source = host.SHIPPED_MODEL_PATH / name
        if not source.exists():
            pytest.skip("dgq-tiny is not there")
        (folder / name).write_text(source.read_text())
    return folder


def test_bad_lines_are_named_and_good_ones_counted(dgq, jobs_file, rewrite, checkpoint):
    jobs_file(
        rewrite("a"),
        b"{not json",
        {"id": "f", "kind": "fill", "template": "Dear {{name}}", "record": {"who": "Tom Bell"}},
        {"id": "p", "kind": "reformat", "language": "python", "code": "def ("},
        rewrite("b"),
    )
    done = dgq("run", "jobs.jsonl", "--dry-run", "--model", checkpoint)
    lines = done.out.splitlines()
    assert done.code == exit_codes.FAILED_ROWS
    assert lines[0].startswith("line 2: not JSON")
    assert lines[1].startswith("line 4: ")
    assert lines[2] == "1 fill, 2 rewrite, 2 bad"
    assert lines[3].startswith("3 requests, ")


def test_good_jobs_exit_0_and_nothing_is_written(
    dgq, engine, tmp_path, jobs_file, rewrite, checkpoint
):
    jobs_file(rewrite("a"))
    done = dgq("run", "jobs.jsonl", "--dry-run", "-o", "out", "--model", checkpoint)
    assert (done.code, done.err) == (exit_codes.OK, "")
    assert done.out.startswith("1 rewrite, 0 bad\n1 requests, ")
    assert not (tmp_path / "out").exists()
    assert engine.num_requests == 0


def test_an_empty_file_is_a_usage_error(dgq, tmp_path, checkpoint):
    (tmp_path / "empty").touch()
    done = dgq("run", "empty", "--dry-run", "--model", checkpoint)
    assert (done.code, done.err) == (exit_codes.USAGE, "dgq: no jobs in empty\n")


def test_without_the_worker_extra_the_jobs_are_still_checked(rewrite, capsys, monkeypatch):
    from dgq.pipelines.reading import read_jobs

    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    monkeypatch.delitem(__import__("sys").modules, "dgq.engine.tokenizer", raising=False)
    lines = [json.dumps(rewrite("a")).encode(), b"{"]
    assert dry_run(read_jobs(lines), "jobs", None) == exit_codes.FAILED_ROWS
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "1 rewrite, 1 bad"
    assert shown.err.startswith("dgq: tokenizers is not installed")
