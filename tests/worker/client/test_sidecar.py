import pytest

from dgq.worker.client.sidecar import Sidecar, read_sidecar, remove_sidecar, sidecar_path
from dgq.worker.errors import OutputError


def test_it_is_read_as_it_was_written(tmp_path):
    out = tmp_path / "out.jsonl"
    assert read_sidecar(out) is None
    Sidecar("b-abcdefghijkl", 12).write(out)
    Sidecar("b-abcdefghijkm", 34).write(out)
    assert read_sidecar(out) == Sidecar("b-abcdefghijkm", 34)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl.dgq"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"batch": 1, "base_bytes": 0}', '{"batch": "b", "base_bytes": -1}'],
)
def test_what_makes_no_sense_is_none(tmp_path, text):
    sidecar_path(tmp_path / "out").write_text(text)
    assert read_sidecar(tmp_path / "out") is None


def test_it_is_removed_only_for_its_batch(tmp_path):
    out = tmp_path / "out"
    Sidecar("b-1", 0).write(out)
    remove_sidecar(out, "b-2")
    assert read_sidecar(out) is not None
    remove_sidecar(out, "b-1")
    assert read_sidecar(out) is None
    remove_sidecar(out, "b-1")
    Sidecar("b-1", 0).write(out)
    remove_sidecar(out)
    assert read_sidecar(out) is None


def test_it_fits_where_a_line_begins(tmp_path):
    out = tmp_path / "out"
    assert not Sidecar("b", 0).fits(out)
    out.write_bytes(b"one\ntwo\nth")
    assert [n for n in range(14) if Sidecar("b", n).fits(out)] == [0, 4, 8]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .*none/out.dgq: No such file"):
        Sidecar("b", 0).write(tmp_path / "none" / "out")
