"""What the LoRA posterior predicts: against the dense reference, whatever the batch, after saving, in every stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prudent.data import load_preferences
from prudent.evaluation import evaluate
from prudent.models import RewardModel
from prudent.posteriors import _lora_laplace as module
from prudent.posteriors import fit, joint_rewards, load_posterior
from prudent.posteriors._blocks import find_blocks
from prudent.posteriors._held_out import PRIOR_SCALES
from prudent.posteriors._lora_contrasts import lora_contrasts
from prudent.posteriors._pair_texts import encode_pairs
from prudent.posteriors._protocol import Center
from prudent.scoring import _score as score_module
from prudent.scoring import read_scored, score, select

PRIOR = 0.03
STRUCTURES = ["full", "kron", "ekfac", "diag"]


def predict(posterior, model, texts, group=None, weight=None, **options):
    size = len(texts[0])
    group = torch.zeros(size, dtype=torch.int64) if group is None else group
    weight = torch.zeros(size) if weight is None else weight
    encoded = model.encode(*texts)
    return posterior.predict(model, encoded, group=group, reference_weight=weight, **options)


@pytest.fixture(scope="module")
def case(reference, lora_model, lora_pairs):
    """A float64 model with its reference, and a posterior of each structure."""
    model = lora_model("llama")
    truth = reference.Truth(model, lora_pairs, order=[block.module for block in find_blocks(model)])
    options = {"prior_precision": PRIOR, "posterior_temperature": 0.7, "progress": False}
    fitted = {kind: fit(model, lora_pairs, posterior=kind, **options).posterior for kind in STRUCTURES}
    dense = {kind: truth.dense(kind, PRIOR, temperature=0.7) for kind in STRUCTURES}
    return model, truth, fitted, dense


@pytest.fixture(scope="module")
def folders(lora_folders, lora_pairs, tmp_path_factory):
    """Folders that `fit` wrote, by structure, and what it returned."""
    made = {}

    def make(structure):
        if structure not in made:
            folder = tmp_path_factory.mktemp(structure) / "rm"
            result = fit(lora_folders("llama"), lora_pairs, folder, posterior=structure, progress=False)
            made[structure] = (folder, result)
        return made[structure]

    return make


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("held_bytes", [1, 2**28])
def test_predictions_are_the_dense_ones(structure, held_bytes, case, lora_texts, monkeypatch):
    monkeypatch.setattr(module, "_HELD_BYTES", held_bytes)
    model, truth, fitted, dense = case
    rewards, jacobian = truth.gradients(*lora_texts)
    rows = jacobian - truth.gradient_mean
    covariance = dense[structure].covariance()
    group = torch.tensor([4, 7, 9] * 4)
    # prompt 4: one text stands twice in its reference set; prompt 7: all; prompt 9: none
    weight = torch.tensor([2.0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0])
    found = predict(fitted[structure], model, lora_texts, group, weight, with_factor=True)
    variance = ((rows @ covariance) * rows).sum(1)
    torch.testing.assert_close(found.mean, rewards, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.variance, variance, rtol=1e-6, atol=0)
    assert not found.noise.any()
    for key in (4, 7):
        members = group == key
        share = weight * members / (weight * members).sum()
        centered = rows[members] - share.double() @ rows
        expected = ((centered @ covariance) * centered).sum(1)
        scale = float(expected.max())
        torch.testing.assert_close(found.centered_variance[members], expected, rtol=1e-6, atol=1e-6 * scale)
        average = (share.double() @ rewards).expand(4)
        torch.testing.assert_close(found.reference_mean[members], average, rtol=1e-6, atol=1e-6)
    assert found.centered_variance[group == 9].isnan().all()
    assert found.reference_mean[group == 9].isnan().all()
    # references from elsewhere: the same centre, handed in
    encoded = model.encode(*lora_texts)
    mean, factor = fitted[structure].exact(model, encoded)
    share = (weight * (group == 4) / (weight * (group == 4)).sum()).to(factor)
    centers = {4: Center(float(share.double() @ rewards), share @ factor)}
    torch.testing.assert_close(mean, found.mean)
    given = predict(fitted[structure], model, lora_texts, group, torch.zeros(12), centers=centers)
    members = group == 4
    scale = float(found.centered_variance[members].max())
    torch.testing.assert_close(
        given.centered_variance[members], found.centered_variance[members], rtol=1e-5, atol=1e-6 * scale
    )
    torch.testing.assert_close(given.reference_mean[members], found.reference_mean[members], rtol=1e-5, atol=1e-5)
    assert given.centered_variance[~members].isnan().all()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_without_the_average_gradient_it_is_the_plain_quadratic_form(structure, case, lora_texts):
    model, truth, fitted, dense = case
    raw = replace(fitted[structure], gradient_mean=torch.zeros_like(fitted[structure].gradient_mean))
    jacobian = truth.gradients(*lora_texts)[1]
    expected = ((jacobian @ dense[structure].covariance()) * jacobian).sum(1)
    torch.testing.assert_close(predict(raw, model, lora_texts).variance, expected, rtol=1e-6, atol=0)
    centred, plain = (
        predict(one, model, lora_texts, weight=torch.ones(12)).centered_variance for one in (fitted[structure], raw)
    )
    torch.testing.assert_close(centred, plain, rtol=1e-5, atol=1e-6 * float(plain.max()))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_contrasts_are_a_squared_seminorm(structure, case, lora_texts):
    model, truth, fitted, dense = case
    texts = tuple([*side, side[3]] for side in lora_texts)
    factor = fitted[structure].exact(model, model.encode(*texts))[1].double()
    variance = torch.cdist(factor, factor).square()
    jacobian = truth.gradients(*texts)[1]
    expected = torch.stack(
        [((row - jacobian) @ dense[structure].covariance()).mul(row - jacobian).sum(1) for row in jacobian]
    )
    torch.testing.assert_close(variance, expected, rtol=1e-5, atol=1e-9 * float(expected.max()))
    assert variance[3, 12] < 1e-10 * variance.max()  # the same text
    std = expected.clamp_min(0).sqrt()
    assert (std.unsqueeze(2) + std.unsqueeze(0) >= std.unsqueeze(1) - 1e-9).all()
    warm = replace(fitted[structure], posterior_temperature=1.4)
    torch.testing.assert_close(
        predict(warm, model, lora_texts).variance, 2 * predict(fitted[structure], model, lora_texts).variance
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("structure", ["kron", "ekfac"])
def test_batch_size_padding_and_order_do_not_matter(structure, kind, lora_model, lora_pairs, lora_texts):
    model = lora_model(kind, dtype=torch.float32)
    options = {"posterior": structure, "prior_precision": PRIOR, "progress": False}
    one = fit(model, lora_pairs, **options).posterior
    model.tokenizer.padding_side = "left"
    small = fit(model, lora_pairs[::-1], tokens_per_batch=1, **options).posterior
    whole = predict(one, model, lora_texts, weight=torch.ones(12))
    other = predict(small, model, lora_texts, weight=torch.ones(12), tokens_per_batch=1)
    back = predict(small, model, tuple(side[::-1] for side in lora_texts), weight=torch.ones(12))
    for name in ("mean", "variance", "centered_variance"):
        scale = float(getattr(whole, name).abs().max())
        torch.testing.assert_close(getattr(other, name), getattr(whole, name), rtol=1e-4, atol=1e-5 * scale)
        torch.testing.assert_close(getattr(back, name).flip(0), getattr(whole, name), rtol=1e-4, atol=1e-5 * scale)
    assert small.log_marginal_likelihood == pytest.approx(one.log_marginal_likelihood, rel=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_float32_is_near_the_float64_reference(structure, case, lora_model, lora_pairs, lora_texts):
    model = lora_model("llama", dtype=torch.float32)
    options = {"prior_precision": PRIOR, "posterior_temperature": 0.7, "progress": False}
    posterior = fit(model, lora_pairs, posterior=structure, **options).posterior
    assert posterior.gradient_mean.dtype == torch.float32
    _, truth, _, dense = case
    rows = truth.gradients(*lora_texts)[1]
    rows = rows - rows.mean(0)
    expected = ((rows @ dense[structure].covariance()) * rows).sum(1).float()
    found = predict(posterior, model, lora_texts, weight=torch.ones(12)).centered_variance
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize(("dtype", "median", "largest"), [(torch.bfloat16, 0.02, 0.2), (torch.float16, 3e-3, 0.02)])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_contrasts_of_half_precision_models(structure, dtype, median, largest, lora_folders, lora_pairs, lora_texts):
    variance = {}
    for chosen in (torch.float32, dtype):
        model = RewardModel.from_pretrained(lora_folders("bert"), dtype=chosen)
        posterior = fit(model, lora_pairs, posterior=structure, prior_precision=PRIOR, progress=False).posterior
        assert all(block.eigenvalues.dtype == torch.float32 for block in posterior.blocks)
        factor = posterior.exact(model, model.encode(*lora_texts))[1].double()
        first, second = torch.triu_indices(12, 12, 1)
        variance[chosen] = (factor[first] - factor[second]).square().sum(1)
    kept = variance[torch.float32] > 1e-9 * variance[torch.float32].max()  # not the equal texts
    ratio = (variance[dtype] / variance[torch.float32])[kept].log().abs()
    assert ratio.median() < median
    assert ratio.max() < largest


@pytest.mark.parametrize("structure", STRUCTURES)
def test_dropout_and_training_mode_play_no_part(structure, lora_model, lora_pairs, lora_texts):
    model = lora_model("llama", dtype=torch.float32, lora_dropout=0.5)
    calm = fit(model, lora_pairs, posterior=structure, progress=False).posterior
    expected = predict(calm, model, lora_texts)
    model.model.train()
    model.model.gradient_checkpointing_enable()
    again = fit(model, lora_pairs, posterior=structure, progress=False).posterior
    assert again.basis_id == calm.basis_id
    assert torch.equal(predict(again, model, lora_texts).variance, expected.variance)
    assert model.model.training


@pytest.mark.parametrize("structure", STRUCTURES)
def test_fitted_twice_and_loaded_are_the_same_bits(structure, folders, lora_folders, lora_pairs, lora_texts):
    folder, result = folders(structure)
    again = fit(lora_folders("llama"), lora_pairs, posterior=structure, progress=False).posterior
    assert again.basis_id == result.posterior.basis_id
    model = RewardModel.from_pretrained(folder)
    loaded = load_posterior(folder, model)
    assert loaded.basis_id == result.posterior.basis_id
    assert loaded.kind == structure
    for posterior in (again, loaded):
        for name in ("log_likelihood", "log_marginal_likelihood", "prior_precisions", "num_pairs", "jitter"):
            assert getattr(posterior, name) == getattr(result.posterior, name)
    first, second, third = (
        predict(one, model, lora_texts, weight=torch.ones(12), with_factor=True)
        for one in (result.posterior, again, loaded)
    )
    for name in ("mean", "variance", "centered_variance", "reference_mean", "factor"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert torch.equal(getattr(first, name), getattr(third, name))


def test_the_folder_is_an_ordinary_adapter_with_the_same_mean(folders, tiny_models, lora_texts):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    folder, _ = folders("ekfac")
    model = RewardModel.from_pretrained(folder)
    plain = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tiny_models("llama")), folder
    ).eval()
    encoded = model.encode(*lora_texts)
    found = predict(load_posterior(folder, model), model, lora_texts).mean
    with torch.no_grad():
        logits = [plain(input_ids=torch.tensor([ids])).logits[0, 0] for ids in encoded.input_ids]
    torch.testing.assert_close(found, torch.stack(logits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_score_select_and_evaluate_take_it_like_any_other(
    structure, folders, lora_texts, lora_pairs, tmp_path, monkeypatch
):
    folder, _ = folders(structure)
    pools = [
        {"prompt": "tell me about the river", "responses": [*lora_texts[1][:9], lora_texts[1][0]]},
        {"prompt": "name a fruit please", "responses": lora_texts[1][9:]},
    ]
    score(folder, pools, tmp_path / "one", factor=True, num_references=4, progress=False)
    monkeypatch.setattr(score_module, "_RESPONSES_PER_SHARD", 4)
    score(folder, pools, tmp_path / "many", factor=True, num_references=4, progress=False)
    one, many = read_scored(tmp_path / "one"), read_scored(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("part-*.parquet"))) > 3
    for name in ("reward_mean", "reward_variance", "reward_reference", "reward_centered_variance"):
        first, second = one.table[name].to_numpy(), many.table[name].to_numpy()
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5 * float(np.abs(first).max()))
    joint = one.posterior()
    assert float(joint.contrast(torch.tensor(0), torch.tensor(9))[1]) == pytest.approx(0.0, abs=1e-6)
    picks = select(tmp_path / "one", tmp_path / "picks.jsonl", utility="center(mean) | lcb_std")
    assert picks.num_prompts == 2
    evaluation = evaluate(folder, lora_pairs, num_bootstrap=20, progress=False).to_dict()
    assert evaluation["num_pairs"] == len(lora_pairs)


@pytest.mark.parametrize("structure", ["kron", "ekfac"])
def test_evaluation_reads_the_variance_of_the_exact_contrast(structure, folders, lora_pairs, reference):
    from prudent.metrics import pair_scores

    folder, result = folders(structure)
    held_out = [{**row, "prompt": "name a fruit please"} for row in lora_pairs[4:]]
    model = RewardModel.from_pretrained(folder)
    model.model.double()
    truth = reference.Truth(model, lora_pairs, order=[block.module for block in find_blocks(model)])
    (prior,) = set(result.posterior.prior_precisions)
    covariance = truth.dense(structure, prior).covariance()
    sides = [
        truth.gradients([row["prompt"] for row in held_out], [row[side] for row in held_out])
        for side in ("chosen", "rejected")
    ]
    mean = sides[0][0] - sides[1][0]
    difference = sides[0][1] - sides[1][1]
    variance = ((difference @ covariance) * difference).sum(1)
    expected = pair_scores(mean, variance, torch.ones(len(held_out))).nll.mean()
    found = evaluate(folder, held_out, num_bootstrap=20, progress=False)
    assert found.moderated.nll.value == pytest.approx(float(expected), rel=1e-3)


def test_the_stored_factor_keeps_contrasts_to_the_stated_error(lora_model, lora_pairs):
    model = lora_model("llama", dtype=torch.float32, r=4, target_modules="all-linear")
    posterior = fit(model, lora_pairs, posterior="ekfac", prior_precision=PRIOR, progress=False).posterior
    assert posterior.num_parameters > 4000
    assert posterior.factor_size == 256
    generator = np.random.default_rng(3)
    words = ["apple", "pear", "river", "stone", "bird", "sings", "sunny", "warm", "cold", "rainy", "one", "two"]
    texts = (["tell me"] * 60, [" ".join(generator.choice(words, generator.integers(1, 25))) for _ in range(60)])
    stored = predict(posterior, model, texts, with_factor=True).factor
    exact = posterior.exact(model, model.encode(*texts))[1]
    assert stored.shape == (60, 256)
    first, second = torch.triu_indices(60, 60, 1)
    true = (exact[first] - exact[second]).square().sum(1)
    ratio = ((stored[first] - stored[second]).square().sum(1) / true)[true > 1e-6 * true.max()]
    stated = (2 / 256) ** 0.5
    assert ratio.mean().item() == pytest.approx(1.0, abs=2 * stated)
    assert (ratio - 1).square().mean().sqrt() < 1.5 * stated
    # a maximum over many contrasts sees the tail, which stays within a few standard deviations
    assert (ratio - 1).abs().max() < 6 * stated


def test_a_narrow_factor_is_stored_as_it_is(lora_model, lora_pairs, lora_texts):
    model = lora_model("llama", r=1, target_modules=["v_proj"])
    posterior = fit(model, lora_pairs, posterior="full", prior_precision=PRIOR, progress=False).posterior
    assert posterior.num_parameters == posterior.factor_size == 32 + 2 * (32 + 16)
    stored = predict(posterior, model, lora_texts, with_factor=True).factor.double()
    exact = posterior.exact(model, model.encode(*lora_texts))[1]
    torch.testing.assert_close(
        stored @ stored.T, exact @ exact.T, rtol=1e-5, atol=1e-6 * float((exact @ exact.T).max())
    )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_joint_covariances_are_the_dense_ones_within_a_prompt(structure, case, lora_texts):
    model, truth, fitted, dense = case
    found = joint_rewards(model, *lora_texts, posterior=fitted[structure])
    rows = truth.gradients(*lora_texts)[1] - truth.gradient_mean
    expected = rows @ dense[structure].covariance() @ rows.T
    inside = found.group.unsqueeze(1) == found.group
    scale = float(expected.diagonal().max())
    torch.testing.assert_close(found.covariance(), expected * inside, rtol=1e-6, atol=1e-6 * scale)
    assert inside.sum() == 72


@pytest.mark.parametrize("structure", STRUCTURES)
def test_held_out_pairs_see_every_prior_precision(structure, case, lora_pairs):
    model, truth, fitted, _ = case
    held_out = [{**row, "prompt": "name a fruit please"} for row in lora_pairs[4:]]
    texts = encode_pairs(model, load_preferences(held_out).rows)
    mean, variance = lora_contrasts(fitted[structure], model, texts, prior_scales=PRIOR_SCALES)
    sides = [
        truth.gradients([row["prompt"] for row in held_out], [row[side] for row in held_out])
        for side in ("chosen", "rejected")
    ]
    difference = sides[0][1] - sides[1][1]
    for place in (0, PRIOR_SCALES.index(1.0), len(PRIOR_SCALES) - 1):
        dense = truth.dense(structure, PRIOR * PRIOR_SCALES[place], temperature=0.7)
        expected = ((difference @ dense.covariance()) * difference).sum(1)
        torch.testing.assert_close(variance[:, place], expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(mean, sides[0][0] - sides[1][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("structure", ["full", "ekfac"])
def test_the_prior_precision_that_held_out_pairs_prefer(structure, case, lora_pairs):
    model, truth, _, _ = case
    held_out = [{**row, "prompt": "name a fruit please"} for row in lora_pairs[4:]]
    options = {"posterior": structure, "eval_data": held_out, "progress": False}
    by_evidence = fit(model, lora_pairs, **options)
    chosen = fit(model, lora_pairs, prior_precision="held_out", **options)
    (prior,) = set(chosen.posterior.prior_precisions)
    scale = chosen.held_out.prior_precision_scale
    assert prior == pytest.approx(by_evidence.posterior.prior_precisions[0] * scale)
    expected = truth.dense(structure, prior).log_marginal_likelihood()
    assert chosen.posterior.log_marginal_likelihood == pytest.approx(expected, rel=1e-6)
    assert chosen.posterior.log_marginal_likelihood <= by_evidence.posterior.log_marginal_likelihood + 1e-9
    given = fit(model, lora_pairs, prior_precision=prior, posterior=structure, progress=False).posterior
    assert given.log_marginal_likelihood == pytest.approx(chosen.posterior.log_marginal_likelihood)
    assert chosen.held_out.nll_scaled <= by_evidence.held_out.nll + 1e-9


def test_bases_from_a_part_of_the_pairs_keep_all_of_the_curvature(lora_model, lora_texts, many_pairs):
    # beyond 256 pairs the eigenvectors of `ekfac` come from 256 of them, the eigenvalues from all
    model = lora_model("llama", r=1, dtype=torch.float32)
    options = {"posterior": "ekfac", "prior_precision": PRIOR, "progress": False}
    posterior = fit(model, many_pairs, **options).posterior
    diagonal = fit(model, many_pairs, **{**options, "posterior": "diag"}).posterior
    exact = fit(model, many_pairs, **{**options, "posterior": "full"}).posterior
    trace = sum(block.trace() for block in exact.blocks)
    for other in (posterior, diagonal):
        assert sum(block.trace() for block in other.blocks) == pytest.approx(trace, rel=1e-4)
    truth = predict(exact, model, lora_texts, weight=torch.ones(12)).centered_variance
    error = {
        kind: (predict(one, model, lora_texts, weight=torch.ones(12)).centered_variance / truth).log().abs().mean()
        for kind, one in (("ekfac", posterior), ("diag", diagonal))
    }
    assert error["ekfac"] < error["diag"]
    same = fit(model, many_pairs, **options).posterior
    assert same.basis_id == posterior.basis_id
    assert fit(model, many_pairs, seed=1, **options).posterior.basis_id != posterior.basis_id


@pytest.mark.parametrize("structure", ["kron", "ekfac"])
def test_cut_ranks_and_priors_by_layer_are_saved(structure, lora_folders, lora_pairs, lora_texts, tmp_path):
    options = {"posterior": structure, "per_layer": True, "max_rank": 3, "progress": False}
    result = fit(lora_folders("llama"), lora_pairs, tmp_path / "rm", **options)
    model = RewardModel.from_pretrained(tmp_path / "rm")
    loaded = load_posterior(tmp_path / "rm", model)
    assert loaded.prior_precisions == result.posterior.prior_precisions
    assert all(block.num_left_out > 0 for block in loaded.blocks)
    first, second = (
        predict(one, model, lora_texts, weight=torch.ones(12), with_factor=True) for one in (result.posterior, loaded)
    )
    for name in ("variance", "centered_variance", "factor"):
        assert torch.equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_text_that_overflows_spoils_no_other(structure, lora_model, lora_pairs, lora_texts):
    model = lora_model("llama", dtype=torch.float32)
    posterior = fit(model, lora_pairs, posterior=structure, prior_precision=PRIOR, progress=False).posterior
    weight = torch.tensor([1.0] * 3 + [0.0] * 9)
    clean = predict(posterior, model, lora_texts, weight=weight)
    with torch.no_grad():
        model.model.get_input_embeddings().weight[model.tokenizer.convert_tokens_to_ids("quickly")] = torch.inf
    texts = lora_texts[0], [*lora_texts[1][:5], lora_texts[1][5] + " quickly", *lora_texts[1][6:]]
    found = predict(posterior, model, texts, weight=weight)
    others = torch.arange(12) != 5
    for name in ("mean", "variance", "centered_variance"):
        assert not getattr(found, name)[5].isfinite()
        expected = getattr(clean, name)[others]
        torch.testing.assert_close(
            getattr(found, name)[others], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )


def test_the_name_of_the_adapter_does_not_matter(lora_folders, tiny_models, lora_pairs, lora_texts):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    usual = RewardModel.from_pretrained(lora_folders("llama"))
    base = AutoModelForSequenceClassification.from_pretrained(tiny_models("llama"))
    named = RewardModel(PeftModel.from_pretrained(base, lora_folders("llama"), adapter_name="reward"), usual.tokenizer)
    posterior = fit(usual, lora_pairs, posterior="ekfac", progress=False).posterior
    same = fit(named, lora_pairs, posterior="ekfac", progress=False).posterior
    assert same.basis_id == posterior.basis_id
    torch.testing.assert_close(
        predict(posterior, named, lora_texts).variance, predict(posterior, usual, lora_texts).variance
    )


def test_what_was_trained_along_and_is_held_fixed_is_said(lora_folders, lora_pairs):
    folder = lora_folders("bert", modules_to_save=["classifier", "embeddings.LayerNorm"])
    (note,) = fit(folder, lora_pairs, posterior="diag", progress=False).notes
    assert "held fixed" in note
    assert "embeddings.LayerNorm.weight" in note
    assert fit(lora_folders("bert"), lora_pairs, posterior="diag", progress=False).notes == ()
