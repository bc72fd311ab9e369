"""What holds for the project as a whole: lazy names, docstrings, the core without the pipeline, files that agree."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import prudent

ROOT = Path(__file__).resolve().parent.parent
CORE = ["prudent.rewards", "prudent.utility", "prudent.selection", "prudent.metrics"]
FOLDERS = [f"prudent.{module.name}" for module in pkgutil.iter_modules(prudent.__path__) if module.ispkg]


def test_importing_prudent_imports_nothing_else():
    code = "import sys, prudent; assert not {'torch', 'transformers', 'typer', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", prudent.__all__)
def test_public_names_resolve_to_what_their_folder_exports(name):
    value = getattr(prudent, name)
    home = prudent._HOME.get(name)
    if home is not None:
        folder = importlib.import_module(home)
        assert value is getattr(folder, name)
        assert name in folder.__all__


def test_type_checkers_see_the_names_that_resolve():
    """The imports under TYPE_CHECKING, the table of homes and `__all__` are one list."""
    tree = ast.parse(Path(prudent.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == prudent._HOME
    assert {*seen, "__version__"} == set(prudent.__all__) <= set(dir(prudent))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        prudent.nothing  # noqa: B018


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_folder_exports_is_documented(folder):
    module = importlib.import_module(folder)
    assert module.__doc__
    assert module.__all__ == sorted(module.__all__, key=_ruff_order)
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{folder}.{name}"
            assert not value.__doc__.startswith(f"{name}("), f"{folder}.{name} has a dataclass's default docstring"


def _ruff_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest: the order that ruff sorts `__all__` by."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_the_core_works_without_the_pipeline():
    """With everything heavy blocked, the core imports and picks a response."""
    code = f"""
import sys
for blocked in ("transformers", "peft", "datasets", "accelerate", "typer", "rich", "matplotlib", "plotly"):
    sys.modules[blocked] = None
import importlib
for name in {CORE}:
    importlib.import_module(name)
import torch, prudent
rewards = prudent.GaussianRewards(torch.tensor([1.0, 1.2]), torch.tensor([0.1, 2.0]), torch.tensor([0, 0]))
picks = prudent.best_of_n(prudent.parse_utility("lcb_std(1)")(rewards), rewards.group)
assert picks.index.tolist() == [0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == prudent.__version__


def test_every_dependency_has_a_tested_version_and_torch_comes_first():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "torch==2.13.0"
    pinned = {_normal(line.partition("==")[0]) for line in lines}
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["report"], *extras["dev"]]:
        name = _normal(re.match(r"[\w-]+", requirement)[0])
        assert name in pinned | {"prudent"}, requirement


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_readme_runner_finds_blocks_and_reasons():
    runner = _script("run_readme")
    text = "# T\n\n```bash\necho a\n```\n\n<!-- not run: installs -->\n```bash\nmake demo\n```\n\n```yaml\na: 1\n```\n"
    blocks = runner.blocks(text)
    assert [(block.language, block.code, block.line, block.skipped) for block in blocks] == [
        ("bash", "echo a\n", 3, None),
        ("bash", "make demo\n", 8, "installs"),
    ]


def test_the_readme_runner_stops_at_the_first_failure(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("```bash\necho 1 > one\n```\n\n```python\nassert open('one').read() == '2'\n```\n")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_readme.py", readme],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "README.md:1: bash ran" in done.stdout
    assert "README.md:5: failed with status 1" in done.stderr


def _script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
