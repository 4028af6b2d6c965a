"""The shape of the repository: layers, packages, sizes, and where the environment may be read."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = {  # what each layer may import
    "kernels": set(),
    "engine": {"kernels"},
    "pipelines": {"engine"},
    "bench": {"engine", "kernels"},
    "worker": {"engine", "pipelines", "bench"},
}
LAYERS = list(BELOW)
FILES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]
HEAVY = {"torch", "transformers", "safetensors", "tokenizers", "jinja2", "numpy", "bitsandbytes"}
MAX_LINES = 400  # most are far below; 260 is what to aim at


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (level, module) for every import in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    """Relative inside a folder, dgq.<layer below> across folders."""
    layer = path.relative_to(ROOT).parts[0]
    for level, module in imports(path):
        top, *rest = module.split(".")
        assert level or top not in LAYERS, f"import dgq.{module}"
        if level == 0 and top == "dgq":
            assert rest[0] in BELOW[layer], module


def test_pipelines_take_only_plain_types_from_the_engine():
    allowed = {"dgq.engine.request", "dgq.engine.errors", "dgq.engine.generation_config"}
    for path in sorted((ROOT / "pipelines").rglob("*.py")):
        modules = {module for level, module in imports(path) if level == 0}
        assert {module for module in modules if module.startswith("dgq.")} <= allowed, path
        assert not {module.split(".")[0] for module in modules} & HEAVY, path


def test_nothing_shipped_imports_transformers():
    """But for the benchmark, which sets it beside the engine where it is installed."""
    for path in set(FILES) - {ROOT / "bench" / "reference_model.py"}:
        assert "transformers" not in {module.split(".")[0] for _, module in imports(path)}, path


def test_every_folder_is_packaged():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT) for path in FILES}
    packages = {"dgq." + ".".join(folder.parts) for folder in folders}
    assert set(config["tool"]["setuptools"]["packages"]) == packages


def test_every_folder_is_seen_by_the_type_checker():
    for folder in {path.relative_to(ROOT).parts[0] for path in FILES}:
        assert (ROOT / ".typing" / "dgq" / folder).resolve() == ROOT / folder


def test_kernels_does_not_shadow_hugging_face():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_only_settings_reads_the_environment():
    words = ("os.environ", "os.getenv", "from os import")
    readers = {path for path in FILES if any(word in path.read_text() for word in words)}
    assert readers <= {ROOT / "worker" / "settings.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "no module docstring"
