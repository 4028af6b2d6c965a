"""README.md shows what is: help pages, the map, the examples and the links."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from dgq.pipelines.job import KINDS
from dgq.pipelines.parsing import parse_job
from dgq.pipelines.result import JobResult, Stats

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_up_to_date():
    for page, text in generate().pages().items():
        assert page.read_text() == text, f"{page.name} is out of date; run: make docs"


def test_each_kind_has_an_example_that_is_a_job():
    lines = re.findall(r"^```json\n(.*?)\n```", README, re.MULTILINE | re.DOTALL)
    assert {parse_job(json.loads(line)).kind for line in lines} == set(KINDS)


def test_the_results_table_has_every_field():
    for field in [*JobResult.model_fields, *Stats.model_fields]:
        assert f"`{field}`" in README, field


@pytest.mark.parametrize(
    "page",
    sorted(
        str(p.relative_to(ROOT))
        for p in [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/**/*.md")]
    ),
)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_make_targets_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)`", README)) <= targets
