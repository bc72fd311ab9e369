"""Files on the hub: what is there, what is surely not there, and what cannot be known; and what is uploaded."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from prudent.errors import ModelError
from prudent.models import RewardModel, find_model_file
from prudent.posteriors import PlainRewards, load_posterior


def hub_says(monkeypatch: pytest.MonkeyPatch, answer: Any, *, cached: Any = None) -> None:
    def download(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: cached)


def test_file_of_a_folder(tmp_path: Path) -> None:
    assert find_model_file(tmp_path, "config.json") is None
    (tmp_path / "config.json").touch()
    assert find_model_file(tmp_path, "config.json") == tmp_path / "config.json"


def test_file_that_the_hub_has_or_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_says(monkeypatch, "/cache/config.json")
    assert find_model_file("org/model", "config.json") == Path("/cache/config.json")
    hub_says(monkeypatch, EntryNotFoundError("404"))
    assert find_model_file("org/model", "config.json") is None
    # Offline, but the cache remembers that there is none.
    hub_says(monkeypatch, LocalEntryNotFoundError("offline"), cached=object())
    assert find_model_file("org/model", "config.json") is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (LocalEntryNotFoundError("offline"), "cannot tell whether org/model has a posterior_config.json"),
        (ConnectionError("reset by peer"), "cannot look up posterior_config.json of org/model: reset by peer"),
        (OfflineModeIsEnabled(), "cannot look up posterior_config.json of org/model: OfflineModeIsEnabled"),
    ],
)
def test_no_connection_is_not_no_posterior(
    error: Exception, words: str, tiny_models: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RewardModel.from_pretrained(tiny_models("llama"))
    hub_says(monkeypatch, error)
    with pytest.raises(ModelError, match=words):
        load_posterior("org/model", model)
    hub_says(monkeypatch, EntryNotFoundError("404"))
    assert load_posterior("org/model", model) == PlainRewards()


@pytest.mark.parametrize("adapter", [False, True])
def test_what_is_uploaded_is_what_is_saved(
    adapter: bool, tiny_models: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    class Hub:
        def create_repo(self, name: str, **options: Any) -> Any:
            calls.append(("create_repo", {"name": name, **options}))
            return SimpleNamespace(repo_id=f"me/{name}")

        def create_branch(self, name: str, **options: Any) -> None:
            calls.append(("create_branch", {"name": name, **options}))

        def upload_folder(self, *, folder_path: str, **options: Any) -> None:
            files = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            calls.append(("upload_folder", {"files": files, **options}))

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    model = RewardModel.from_pretrained(tiny_models("llama"))
    if adapter:
        from prudent.models import add_lora

        model = RewardModel(add_lora(model.model, rank=2, alpha=4, dropout=0.0), model.tokenizer)
    model.save_pretrained(tmp_path)
    model.push_to_hub("reward", private=True, revision="next", commit_message="First")
    assert [name for name, _ in calls] == ["create_repo", "create_branch", "upload_folder"]
    assert calls[0][1] == {"name": "reward", "private": True, "exist_ok": True}
    upload = calls[2][1]
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert upload["files"] == saved
    assert ("adapter_model.safetensors" in saved) == adapter
    assert (upload["repo_id"], upload["revision"], upload["commit_message"]) == ("me/reward", "next", "First")
    assert "adapter_config.json" in upload["delete_patterns"]
    calls.clear()
    model.push_to_hub("reward")
    assert [name for name, _ in calls] == ["create_repo", "upload_folder"]
