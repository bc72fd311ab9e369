"""Utilities fitted on one file and used on another, and what is saved of them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from prudent.errors import DataError, PrudentError, UtilityError
from prudent.models import atomic_folder
from prudent.scoring import ScoredPool, fit_utility, load_utility, save_utility, utility_for
from prudent.utility import Center, reward

TEXTS = ["name a fruit", "name a river", "tell me about stone", "say yes"]


def make_pool(
    prompts: list[str],
    size: int = 6,
    *,
    seed: int = 0,
    names: tuple[str, ...] = ("reward",),
    basis: str = "basis",
    num_references: int = 4,
) -> ScoredPool:
    """A scored file of prompts with some responses each, the first of which are the references."""
    draw = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(len(prompts)), size)
    columns = {
        "prompt_id": prompt.astype(np.int32),
        "response_id": np.tile(np.arange(size, dtype=np.int32), len(prompts)),
        "prompt": np.array(prompts, dtype=object)[prompt],
        "response": [f"response {n}" for n in range(len(prompt))],
        "is_reference": np.tile(np.arange(size) < num_references, len(prompts)),
    }
    for name in names:
        before = "" if name == "reward" else f"{name}_"
        mean = draw.normal(size=len(prompt)).astype(np.float32)
        columns[f"{before}reward_mean"] = mean
        columns[f"{before}reward_variance"] = draw.uniform(1, 2, len(prompt)).astype(np.float32)
        columns[f"{before}reward_centered_variance"] = draw.uniform(0.1, 1, len(prompt)).astype(np.float32)
        average = mean.reshape(-1, size)[:, :num_references].mean(1)
        columns[f"{before}reward_reference"] = np.repeat(average, size)
    stated = {name: {"kind": "gaussian", "basis_id": f"{basis} {name}"} for name in names}
    metadata = stated["reward"] if names == ("reward",) else {"rewards": stated}
    table = pa.table(columns).replace_schema_metadata({b"prudent": json.dumps(metadata).encode()})
    return ScoredPool(table, "some.parquet")


def values(pool: ScoredPool, utility, **options) -> torch.Tensor:
    return utility_for(pool, utility, **options)(pool.reward_set())


@pytest.mark.parametrize(
    "utility",
    [
        "mean",
        "lcb_std(2)",
        "center | lcb_std",
        "center(q=0.5, of=all) | lcb_var",
        "center(at=0.5) | log_sigmoid",
        "center(fit=normal) | log_sigmoid | lcb_std",
        "standardize | mean",
        "standardize(of=all) | quantile(0.2)",
        "quantile_rank | mean",
        "center(mean) | standardize | sigmoid",
    ],
)
def test_a_utility_read_back_gives_the_same_values(utility, tmp_path):
    pool = make_pool(TEXTS)
    save_utility(fit_utility(pool, utility), tmp_path / "utility")
    assert sorted(path.name for path in (tmp_path / "utility").iterdir()) == ["utility.safetensors", "utility.yaml"]
    expected = values(pool, utility)
    assert expected.isfinite().all()
    for place in (tmp_path / "utility", tmp_path / "utility" / "utility.yaml", str(tmp_path / "utility")):
        assert torch.equal(values(pool, place), expected)


def test_several_rewards_read_back(tmp_path):
    pool = make_pool(TEXTS, names=("helpful", "harmless"))
    utility = "all_of(helpful | center(q=0.85) | log_sigmoid, harmless | center | log_sigmoid) | lcb_std"
    save_utility(fit_utility(pool, utility), tmp_path)
    assert torch.equal(values(pool, tmp_path), values(pool, utility))
    with pytest.raises(DataError, match=r"no reward 'helpful'.*there is"):
        values(make_pool(TEXTS), tmp_path)


def test_prompts_are_found_by_their_text(tmp_path):
    fitted_on = make_pool(TEXTS, seed=1)
    save_utility(fit_utility(fitted_on, "center(q=0.5) | mean"), tmp_path)
    # other numbers of prompts, one of them twice, and other responses
    other = make_pool([TEXTS[2], TEXTS[0], TEXTS[2]], size=3, seed=2, num_references=2)
    rewards = fitted_on.column("reward_mean").reshape(len(TEXTS), -1)[:, :4]
    median = rewards.quantile(0.5, dim=1)[[2, 0, 2]].repeat_interleave(3)
    assert torch.allclose(values(other, tmp_path), other.column("reward_mean") - median)


def test_the_first_of_several_prompts_with_one_text_counts(tmp_path):
    pool = make_pool(["same", "same"])
    save_utility(fit_utility(pool, "center(mean)"), tmp_path)
    centered = values(pool, tmp_path)
    first = pool.column("reward_mean").reshape(2, -1)[0, :4].mean()
    assert torch.allclose(centered, (pool.column("reward_mean") - first).to(centered))
    fitted_on = load_utility(tmp_path).fitted_on
    assert (fitted_on["num_prompts"], fitted_on["num_references"]) == (1, {"reward": 4})
    # what serves all prompts rests on both
    assert fit_utility(pool, "center(of=all)").fitted_on["num_references"] == {"reward": 8}


def test_an_unknown_prompt_is_told_with_what_to_do(tmp_path):
    save_utility(fit_utility(make_pool(TEXTS[:2]), "center"), tmp_path / "prompt")
    save_utility(fit_utility(make_pool(TEXTS[:2]), "center(of=all)"), tmp_path / "all")
    pool = make_pool(TEXTS)
    with pytest.raises(DataError, match=r"prompt 2 \(2 such prompts\).*of=all.*of=learned"):
        values(pool, tmp_path / "prompt")
    assert values(pool, tmp_path / "all").isfinite().all()


def test_another_model_is_refused(tmp_path):
    save_utility(fit_utility(make_pool(TEXTS), "center | lcb_std"), tmp_path / "centered")
    save_utility(fit_utility(make_pool(TEXTS), "lcb_std"), tmp_path / "plain")
    other = make_pool(TEXTS, basis="other")
    with pytest.raises(DataError, match=r"another model or posterior \(basis basis reward\).*prudent utility"):
        values(other, tmp_path / "centered")
    assert torch.equal(values(other, tmp_path / "plain"), values(other, "lcb_std"))


def without_posterior(model: str | None, kind: str = "gaussian") -> ScoredPool:
    """Scored by a model that has no posterior, by its name; None for scores of other programs or earlier versions."""
    metadata = {"kind": kind, "basis_id": None, **({} if model is None else {"model": model})}
    table = make_pool(TEXTS).table.replace_schema_metadata({b"prudent": json.dumps(metadata).encode()})
    return ScoredPool(table, "plain.parquet")


def test_another_model_without_a_posterior_is_refused_where_it_is_known(tmp_path):
    fit_utility(without_posterior("one"), "center | mean", tmp_path / "one")
    fit_utility(without_posterior(None), "center | mean", tmp_path / "unknown")
    assert yaml.safe_load((tmp_path / "one" / "utility.yaml").read_text())["rewards"]["reward"]["model"] == "one"
    with pytest.raises(DataError, match=r"another model or posterior \(one\) than these \(two\)"):
        values(without_posterior("two"), tmp_path / "one")
    for pool, folder in ((None, "one"), ("one", "one"), ("one", "unknown"), (None, "unknown")):
        assert values(without_posterior(pool), tmp_path / folder).isfinite().all()


def test_references_from_another_file():
    pool, samples = make_pool(TEXTS, seed=3), make_pool(TEXTS[::-1], size=20, seed=4)
    rewards = samples.column("reward_mean").reshape(len(TEXTS), -1).flip(0)  # all rows, in the pool's order
    level = rewards.quantile(0.85, dim=1).repeat_interleave(6)
    found = values(pool, "center | mean", references=samples)
    assert torch.allclose(found, (pool.column("reward_mean") - level).to(found), atol=1e-6)
    with pytest.raises(DataError, match=r"another model or posterior"):
        values(pool, "center", references=make_pool(TEXTS, basis="other"))


def test_a_saved_utility_has_its_references(tmp_path):
    pool = make_pool(TEXTS)
    save_utility(fit_utility(pool, "center"), tmp_path)
    with pytest.raises(DataError, match="references of its own"):
        values(pool, tmp_path, references=pool)


def canned_pool(prompts: list[str], text: str, seed: int = 0) -> ScoredPool:
    """Scored against a canned response instead of the pool's own."""
    pool = make_pool(prompts, seed=seed)
    level = np.repeat(np.arange(len(prompts), dtype=np.float32), 6)
    place = pool.table.column_names.index("reward_reference")
    table = pool.table.set_column(place, "reward_reference", pa.array(level))
    metadata = {"kind": "gaussian", "basis_id": "basis reward", "canned": text}
    return ScoredPool(table.replace_schema_metadata({b"prudent": json.dumps(metadata).encode()}), "canned.parquet")


def test_a_canned_response_is_scored_beside_the_others_and_serves_any_prompt(tmp_path):
    utility = 'center(canned="Sorry.") | mean'
    save_utility(fit_utility(canned_pool(TEXTS[:2], "Sorry."), utility), tmp_path)
    other = canned_pool(TEXTS[::-1], "Sorry.", seed=1)
    level = torch.arange(4.0).repeat_interleave(6)
    assert torch.allclose(values(other, tmp_path), other.column("reward_mean") - level)
    odd = 'Sorry,\n "no": it\'s | not (good) é'
    save_utility(fit_utility(canned_pool(TEXTS, odd), reward() | Center(canned=odd)), tmp_path / "odd")
    assert torch.allclose(values(canned_pool(TEXTS[::-1], odd, seed=1), tmp_path / "odd"), values(other, tmp_path))
    with pytest.raises(DataError, match=r"scored against the canned response 'No\.'"):
        values(canned_pool(TEXTS, "No."), tmp_path)
    with pytest.raises(DataError, match="scored against its own responses"):
        values(make_pool(TEXTS), tmp_path)


@pytest.mark.parametrize("utility", ["center | lcb_std", "center(of=all) | mean", "standardize | lcb_std"])
def test_references_do_not_go_with_a_pool_scored_against_a_canned_response(utility, tmp_path):
    own, canned = make_pool(TEXTS), canned_pool(TEXTS, "Sorry.")
    saved = fit_utility(own, utility, tmp_path)
    for how in ({"utility": saved}, {"utility": tmp_path}, {"utility": utility, "references": own}):
        with pytest.raises(DataError, match=r"scored against the canned response 'Sorry\.'.*without --canned"):
            values(canned, **how)
    assert values(canned, fit_utility(own, "center(at=1) | lcb_std")).isfinite().all()


def test_what_is_said_of_the_fit(tmp_path):
    pool = make_pool(TEXTS)
    saved = fit_utility(pool, "center(mean) | lcb_std")
    average = pool.column("reward_mean").reshape(4, -1)[:, :4].mean(1)
    (step,) = saved.learned
    assert (step.step, step.of, step.num_prompts, step.num_references) == ("center(mean)", "prompt", 4, {"reward": 16})
    assert step.reference_mean == pytest.approx(float(average.mean()), abs=1e-6)
    assert step.reference_std == pytest.approx(float(average.std()), abs=1e-6)
    assert fit_utility(pool, "center", all_rows=True).learned[0].num_references == {"reward": 24}
    save_utility(saved, tmp_path)
    content = yaml.safe_load((tmp_path / "utility.yaml").read_text())
    assert content["utility"] == "center(mean) | lcb_std"
    assert content["rewards"] == {"reward": {"basis_id": "basis reward"}}
    assert content["fitted_on"] == {"data": "some.parquet", "num_prompts": 4, "num_references": {"reward": 16}}
    assert load_utility(tmp_path).learned == saved.learned


def test_a_utility_is_saved_beside_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_utility(fit_utility(make_pool(TEXTS), "center"), tmp_path)
    with pytest.raises(PrudentError, match="already holds a utility"):
        save_utility(fit_utility(make_pool(TEXTS), "lcb_std"), tmp_path)
    fit_utility(make_pool(TEXTS), "lcb_std", tmp_path, overwrite=True)
    assert str(load_utility(tmp_path).utility) == "lcb_std"
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["adapter_config.json", "utility.safetensors", "utility.yaml"]


def test_a_utility_that_cannot_be_written_leaves_the_old_one_whole(tmp_path, monkeypatch):
    pool = make_pool(TEXTS)
    fit_utility(pool, "center | lcb_std", tmp_path)

    def no_space(tensors, path):
        Path(path).write_text("half")
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OSError, match="no space"):
        fit_utility(pool, "standardize | mean", tmp_path, overwrite=True)
    assert torch.equal(values(pool, tmp_path), values(pool, "center | lcb_std"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["utility.safetensors", "utility.yaml"]


def test_another_model_in_its_place_takes_the_utility_away(tmp_path):
    fit_utility(make_pool(TEXTS), "center", tmp_path)
    with atomic_folder(tmp_path, overwrite=True) as folder:
        (folder / "config.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def saved_in(folder: Path) -> Path:
    save_utility(fit_utility(make_pool(TEXTS), "center | lcb_std"), folder)
    return folder


def rewrite(folder: Path, **entries) -> None:
    content = yaml.safe_load((folder / "utility.yaml").read_text())
    (folder / "utility.yaml").write_text(yaml.safe_dump(content | entries))


def test_a_folder_without_a_utility(tmp_path):
    pool = make_pool(TEXTS)
    for place in (tmp_path, str(tmp_path), tmp_path / "utility.yaml", "no/such.yaml", tmp_path / "nothing"):
        with pytest.raises(DataError, match="no utility"):
            values(pool, place)
    with pytest.raises(DataError, match=r"has no reward 'careful' .*there is no folder careful"):
        values(pool, "careful")
    with pytest.raises(UtilityError, match="lcb_sdt"):
        values(pool, "lcb_sdt(2)")


def test_damaged_files(tmp_path):
    pool, folder = make_pool(TEXTS), saved_in(tmp_path)
    whole = (folder / "utility.safetensors").read_bytes()
    (folder / "utility.safetensors").write_bytes(whole[:20])
    with pytest.raises(DataError, match=r"utility\.safetensors is damaged"):
        values(pool, folder)
    (folder / "utility.safetensors").unlink()
    with pytest.raises(DataError, match=r"utility\.safetensors is missing"):
        values(pool, folder)
    (folder / "utility.safetensors").write_bytes(whole)
    tensors = load_file(folder / "utility.safetensors")
    tensors["center/per_prompt/reference"] = tensors["center/per_prompt/reference"][:2].clone()
    save_file(tensors, folder / "utility.safetensors")
    with pytest.raises(DataError, match=r"damaged \(reference has 2 rows for 4 prompts\)"):
        values(pool, folder)
    (folder / "utility.safetensors").write_bytes(whole)
    tensors = load_file(folder / "utility.safetensors")
    renamed = {name.replace("/reference", "/other"): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "utility.safetensors")
    with pytest.raises(DataError, match=r"utility\.safetensors is damaged \(it has no tensor 'reference'\)"):
        values(pool, folder)
    (folder / "utility.safetensors").write_bytes(whole)
    rewrite(folder, fitted_on=[1])
    with pytest.raises(DataError, match="`fitted_on` must say"):
        values(pool, folder)
    rewrite(folder, utility="center | lcb_sdt")
    with pytest.raises(UtilityError, match=r"utility\.yaml: .*lcb_sdt"):
        values(pool, folder)
    (folder / "utility.yaml").write_text("utility: [unclosed")
    with pytest.raises(DataError, match="not readable as YAML"):
        values(pool, folder)
    (folder / "utility.yaml").write_text("- a list")
    with pytest.raises(DataError, match="not a saved utility"):
        values(pool, folder)


def test_other_formats_and_edited_texts(tmp_path):
    pool, folder = make_pool(TEXTS), saved_in(tmp_path)
    rewrite(folder, utility="center | lcb_std(3)")  # a rule may be changed by hand
    assert torch.equal(values(pool, folder), values(pool, "center | lcb_std(3)"))
    rewrite(folder, utility="center(q=0.5) | lcb_std")
    with pytest.raises(DataError, match=r"knows nothing of `center\(q=0\.5\)`"):
        values(pool, folder)
    rewrite(folder, utility=3)
    with pytest.raises(DataError, match="no text `utility`"):
        values(pool, folder)
    rewrite(folder, format_version=2)
    with pytest.raises(DataError, match="format 2, this prudent reads format 1; upgrade"):
        values(pool, folder)
    rewrite(folder, format_version=None)
    with pytest.raises(DataError, match="format None"):
        values(pool, folder)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrudentError, match="is a file"):
        fit_utility(make_pool(TEXTS), "mean", tmp_path / "file")


def test_a_pool_without_texts_of_prompts_cannot_be_matched(tmp_path):
    folder, pool = saved_in(tmp_path), make_pool(TEXTS)
    without = ScoredPool(pool.table.drop_columns(["prompt"]), "bare.parquet")
    with pytest.raises(DataError, match=r"bare\.parquet has no column prompt"):
        values(without, folder)
    assert values(without, "center | lcb_std").isfinite().all()


def test_a_variance_that_is_not_there(tmp_path):
    pool = make_pool(TEXTS, names=("helpful", "harmless"))
    place = pool.table.column_names.index("harmless_reward_variance")
    nothing = pa.nulls(pool.table.num_rows, pa.float32())
    without = ScoredPool(pool.table.set_column(place, "harmless_reward_variance", nothing), "half.parquet")
    with pytest.raises(DataError, match=r"half\.parquet has no variances of 'harmless'"):
        utility_for(without, "harmless | lcb_std")
    for utility in (
        "product(helpful | center, harmless | center)",
        "weighted(helpful | lcb_std, harmless | cvar, weights=[1, 1])",
    ):
        with pytest.raises(DataError, match=r"no variances of 'harmless'"):
            utility_for(without, utility)
    # between the parts of an ensemble there is a variance, and a mean needs none
    for utility in (
        "helpful | lcb_std",
        "ensemble(helpful, harmless) | lcb_std",
        "weighted(helpful | lcb_std, harmless | mean, weights=[1, 1])",
    ):
        assert values(without, utility).isfinite().all()


def test_a_path_that_is_not_there_is_told_as_a_folder(tmp_path):
    pool = ScoredPool(pa.table({"prompt_id": [0, 0], "reward_mean": [0.0, 1.0], "reward_variance": [1.0, 1.0]}))
    with pytest.raises(DataError, match=r"there is no folder .*nowhere with a utility"):
        utility_for(pool, str(tmp_path / "nowhere"))
