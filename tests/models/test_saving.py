"""Folders that are whole or not there, and old models that leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prudent.errors import PrudentError
from prudent.models import atomic_folder


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def overwrite(target: Path, *, fail: bool = False, **files: str) -> None:
    with atomic_folder(target, overwrite=True) as folder:
        assert folder is not None
        fill(folder, **files)
        if fail:
            raise RuntimeError


def test_old_model_leaves_nothing_and_foreign_files_stay(tmp_path: Path) -> None:
    target = fill(
        tmp_path / "rm",
        adapter_config__json="old",
        adapter_model__safetensors="old",
        posterior__safetensors="old",
        posterior_config__json="old",
        chat_template__jinja="old",
        config__json="old",
        training_result__json="mine",
        README__md="mine",
        notes__txt="mine",
    )
    fill(target / "checkpoints", adapter_config__json="mine")
    (target / "model-00001-of-00002.safetensors").write_text("old")
    (target / "model.safetensors.index.json").write_text("old")
    with atomic_folder(target, overwrite=True) as folder:
        assert folder is not None
        fill(folder, config__json="new", model__safetensors="new")
        fill(folder / "deeper", figures__json="new")
    content = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert content == {
        "config.json": "new",
        "model.safetensors": "new",
        "deeper/figures.json": "new",
        "training_result.json": "mine",
        "README.md": "mine",
        "notes.txt": "mine",
        "checkpoints/adapter_config.json": "mine",
    }
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_fails_leaves_the_old_model(tmp_path: Path) -> None:
    target = fill(tmp_path / "rm", config__json="old", adapter_config__json="old")
    with pytest.raises(RuntimeError):
        overwrite(target, fail=True, config__json="new")
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        "config.json": "old",
        "adapter_config.json": "old",
    }


def test_a_move_cut_short_is_not_taken_for_a_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fill(tmp_path / "rm", config__json="old", model__safetensors="old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prudent.models._saving.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        overwrite(target, config__json="new", model__safetensors="new")
    assert not (target / "config.json").exists()


@pytest.mark.parametrize("moved", range(4))
def test_a_move_that_a_killed_process_began_is_ended(moved: int, tmp_path: Path) -> None:
    target = fill(tmp_path / "rm", config__json="old", model__safetensors="old", vocab__txt="old", notes__txt="mine")
    program = f"""
import os, signal
from prudent.models import _saving
replace, done = os.replace, []
def dying(source, place):
    if len(done) == {moved}:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(replace(source, place))
_saving.os.replace = dying
with _saving.atomic_folder({str(target)!r}, overwrite=True) as folder:
    for name in ("config.json", "posterior_config.json", "model.safetensors", "README.md"):
        (folder / name).write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    assert (target / "config.json").exists() == (moved == 3)
    with pytest.raises(RuntimeError):
        overwrite(target, fail=True)
    names = ["config.json", "model.safetensors", "README.md", *(["posterior_config.json"] if moved < 3 else [])]
    assert {path.name: path.read_text() for path in target.iterdir()} == {
        **dict.fromkeys(names, "new"),
        "notes.txt": "mine",
    }
    assert list(tmp_path.iterdir()) == [target]


def test_adapter_does_not_replace_its_own_base(tmp_path: Path) -> None:
    target = fill(tmp_path / "base", config__json="{}", model__safetensors="base")
    entries = json.dumps({"base_model_name_or_path": str(target)})
    with pytest.raises(PrudentError, match="holds the base of the adapter"):
        overwrite(target, adapter_config__json=entries)
    assert (target / "model.safetensors").read_text() == "base"


@pytest.mark.skipif(os.name != "posix", reason="asks after processes")
def test_leftovers_of_dead_processes_are_cleared(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = fill(tmp_path / f".rm.{ended.pid}.tmp", config__json="half")
    alive = fill(tmp_path / f".rm.{os.getppid()}.tmp", config__json="half")
    others = [fill(tmp_path / name, config__json="") for name in (f".rm2.{ended.pid}.tmp", ".rm.notes.tmp")]
    with atomic_folder(tmp_path / "rm") as folder:
        assert folder is not None
        assert not dead.exists()
    assert alive.exists()
    assert all(other.exists() for other in others)
