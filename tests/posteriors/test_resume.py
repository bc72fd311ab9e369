"""A fit over LoRA weights that was killed goes on where it was, to the same posterior."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from prudent.errors import PosteriorError, PrudentError
from prudent.models import RewardModel
from prudent.posteriors import LoraLaplacePosterior, fit, load_posterior
from prudent.posteriors._gradients import RewardGradients

OPTIONS: dict[str, Any] = {
    "tokens_per_batch": 48,
    "max_length": 32,
    "progress": False,
    "center_rewards_coefficient": 0.1,
}


@pytest.fixture(autouse=True)
def saves_after_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prudent.posteriors._resume._SECONDS", 0.0)
    monkeypatch.setattr("prudent.posteriors._resume._SHARE", float("inf"))


class _Stop(Exception):
    """Ends a fit where a test wants it."""


@contextmanager
def counted(stop_before: int | None = None) -> Iterator[list[int]]:
    """The sizes of the batches read, up to one before which the fit ends."""
    sizes: list[int] = []
    forward = RewardGradients.forward

    def counting(self: RewardGradients, batch: Any) -> Any:
        if len(sizes) == stop_before:
            raise _Stop
        sizes.append(len(batch))
        return forward(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RewardGradients, "forward", counting)
        yield sizes


def loaded(folder: Path) -> LoraLaplacePosterior:
    posterior = load_posterior(folder, RewardModel.from_pretrained(folder))
    assert isinstance(posterior, LoraLaplacePosterior)
    return posterior


def assert_same(first: Path, second: Path) -> None:
    """To the last bit; `basis_id` is a digest of all tensors and prior precisions."""
    one, other = loaded(first), loaded(second)
    assert one.basis_id == other.basis_id
    assert one.log_likelihood == other.log_likelihood
    assert one.log_marginal_likelihood == other.log_marginal_likelihood
    told = [json.loads((folder / "posterior_config.json").read_text()) for folder in (first, second)]
    assert told[0] == told[1]


@pytest.fixture(scope="module")
def whole(
    lora_folders: Callable[..., Path], lora_pairs: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, int]]:
    """The folder of an uninterrupted fit of a kind, and how many batches it read."""
    made: dict[str, tuple[Path, int]] = {}

    def make(kind: str) -> tuple[Path, int]:
        if kind not in made:
            output = tmp_path_factory.mktemp("whole") / "rm"
            with counted() as sizes:
                fit(lora_folders("llama"), lora_pairs, output, posterior=kind, **OPTIONS)
            made[kind] = output, len(sizes)
            assert os.listdir(output.parent) == ["rm"]
        return made[kind]

    return make


@pytest.mark.parametrize("kind", ["kron", "ekfac", "diag", "full"])
def test_goes_on_with_the_next_batch(
    kind: str,
    whole: Callable[[str], tuple[Path, int]],
    lora_folders: Callable[..., Path],
    lora_pairs: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    output, total = tmp_path / "rm", whole(kind)[1]
    assert total > 6
    read = 0
    for more in (2, total // 2, 1):  # of `ekfac`, the second break lies in the second pass
        with pytest.raises(_Stop), counted(more) as sizes:
            fit(lora_folders("llama"), lora_pairs, output, posterior=kind, **OPTIONS)
        read += len(sizes)
        assert not output.exists()
    with counted() as sizes:
        fit(lora_folders("llama"), lora_pairs, output, posterior=kind, **OPTIONS)
    assert read + len(sizes) == total
    assert_same(whole(kind)[0], output)
    assert os.listdir(tmp_path) == ["rm"]


@pytest.mark.parametrize("moment", ["in a batch", "in saving"])
def test_killed_by_sigkill_it_ends_at_the_same_posterior(
    moment: str,
    whole: Callable[[str], tuple[Path, int]],
    lora_folders: Callable[..., Path],
    lora_pairs: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    program = f"""
import json, os, signal, sys
from safetensors import torch as files
from prudent.posteriors import _resume, _sums, fit
_resume._SECONDS, _resume._SHARE = 0.0, float("inf")
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
add, save_file, count = _sums.EigenvalueSums.add, files.save_file, [0]
def adding(self, index, *rest):
    count[0] += 1
    if count[0] == 30:  # some blocks of a batch have added theirs, others have not
        die()
    add(self, index, *rest)
def saving(tensors, path):
    save_file(tensors, path)
    count[0] += 1
    if count[0] == 9:
        path.write_bytes(path.read_bytes()[:100])
        die()
if {moment!r} == "in a batch":
    _sums.EigenvalueSums.add = adding
else:
    files.save_file = saving
model, pairs, output, options = sys.argv[1:]
fit(model, json.loads(pairs), output, posterior="ekfac", **json.loads(options))
"""
    output = tmp_path / "rm"
    arguments = [str(lora_folders("llama")), json.dumps(lora_pairs), str(output), json.dumps(OPTIONS)]
    killed = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert {path.name for path in (tmp_path / "rm.partial").iterdir()} >= {"fit.json", "bases-0.safetensors"}
    with counted() as sizes:
        fit(lora_folders("llama"), lora_pairs, output, posterior="ekfac", **OPTIONS)
    assert len(sizes) < whole("ekfac")[1] - 4
    assert_same(whole("ekfac")[0], output)
    assert os.listdir(tmp_path) == ["rm"]


def test_what_the_sums_do_not_depend_on_may_change(
    whole: Callable[[str], tuple[Path, int]],
    lora_folders: Callable[..., Path],
    lora_pairs: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    with pytest.raises(_Stop), counted(5):
        fit(lora_folders("llama"), lora_pairs, tmp_path / "rm", posterior="diag", **OPTIONS)
    with counted() as sizes:
        result = fit(
            lora_folders("llama"), lora_pairs, tmp_path / "rm", posterior="diag", prior_precision=3.0, **OPTIONS
        )
    assert len(sizes) == whole("diag")[1] - 5
    assert result.posterior.log_likelihood == loaded(whole("diag")[0]).log_likelihood


def test_sums_of_something_else_are_neither_used_nor_lost(
    lora_folders: Callable[..., Path], lora_pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "rm"

    def again(**changed: Any) -> Any:
        given = {"model": lora_folders("llama"), "data": lora_pairs, "posterior": "diag", **OPTIONS, **changed}
        return fit(given.pop("model"), given.pop("data"), output, **given)

    with pytest.raises(_Stop), counted(5):
        again()
    for changed, named in (
        ({"posterior": "ekfac"}, "posterior"),
        ({"data": lora_pairs[1:]}, "pairs"),
        ({"data": [*lora_pairs[1:], {**lora_pairs[0], "p_chosen": 0.8}]}, "pairs"),
        ({"model": lora_folders("llama", r=3)}, "model"),
        ({"center_rewards_coefficient": 0.2}, "center_rewards_coefficient"),
        ({"tokens_per_batch": 64}, "tokens_per_batch"),
    ):
        with pytest.raises(PosteriorError, match=f"unfinished fit with another {named}.*overwrite"):
            again(**changed)
    with pytest.raises(_Stop), counted(0):
        again()  # still there
    with counted() as sizes:
        again(posterior="full", overwrite=True)
    with counted() as others:
        again(posterior="full", overwrite=True)
    assert len(sizes) == len(others)
    assert os.listdir(tmp_path) == ["rm"]


def test_a_strange_folder_is_left_alone_and_a_damaged_one_named(
    lora_folders: Callable[..., Path], lora_pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    output, partial = tmp_path / "rm", tmp_path / "rm.partial"
    partial.mkdir()
    (partial / "notes.md").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(PosteriorError, match="not written by a fit"):
            fit(lora_folders("llama"), lora_pairs, output, posterior="diag", overwrite=overwrite, **OPTIONS)
    (partial / "notes.md").unlink()
    with pytest.raises(_Stop), counted(5):
        fit(lora_folders("llama"), lora_pairs, output, posterior="diag", **OPTIONS)
    whole = (partial / "sums-0.safetensors").read_bytes()
    (partial / "sums-0.safetensors").write_bytes(whole[:50])
    with pytest.raises(PosteriorError, match=r"sums-0\.safetensors is damaged.*remove"):
        fit(lora_folders("llama"), lora_pairs, output, posterior="diag", **OPTIONS)
    (partial / "fit.json").write_text("{")
    with pytest.raises(PrudentError, match=r"fit\.json is damaged.*remove"):
        fit(lora_folders("llama"), lora_pairs, output, posterior="diag", **OPTIONS)


def test_a_quick_fit_keeps_nothing_but_the_bases(
    lora_folders: Callable[..., Path],
    lora_pairs: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prudent.posteriors._resume._SECONDS", 60.0)
    with pytest.raises(_Stop), counted(5):
        fit(lora_folders("llama"), lora_pairs, tmp_path / "rm", posterior="kron", **OPTIONS)
    assert os.listdir(tmp_path) == []
