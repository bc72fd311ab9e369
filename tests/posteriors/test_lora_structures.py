"""Every structure of curvature against the dense reference: variance, contrast, log-determinant, evidence."""

from dataclasses import replace

import pytest
import torch

from prudent.posteriors import fit
from prudent.posteriors._blocks import find_blocks

PRIOR = 0.01
STRUCTURES = ["full", "kron", "ekfac", "diag"]
OPTIONS = {
    "llama": {},
    "bert": {"modules_to_save": ["classifier", "pooler"]},
    "roberta": {"r": 1},
    "gpt2": {"r": 3, "use_rslora": True, "target_modules": ["c_attn"]},
    "qwen2": {"r": 1},
}


def truth_of(reference, model, rows, **options):
    order = [block.module for block in find_blocks(model)]
    return reference.Truth(model, rows, order=order, **options)


def check(posterior, model, truth, dense, texts, rtol=1e-6):
    """Mean, joint covariance and all contrasts of new texts, and the evidence, against the dense posterior."""
    rewards, jacobian = truth.gradients(*texts)
    mean, factor = posterior.exact(model, model.encode(*texts))
    factor = factor.double()
    torch.testing.assert_close(mean.double(), rewards, rtol=1e-5, atol=1e-5)
    covariance = dense.covariance()
    rows = jacobian - truth.gradient_mean
    expected = rows @ covariance @ rows.T
    scale = float(expected.diagonal().max())
    torch.testing.assert_close(factor @ factor.T, expected, rtol=rtol, atol=rtol * scale)
    first, second = torch.triu_indices(len(rewards), len(rewards), 1)
    difference = jacobian[first] - jacobian[second]
    contrast = ((difference @ covariance) * difference).sum(1)
    torch.testing.assert_close((factor[first] - factor[second]).square().sum(1), contrast, rtol=rtol, atol=rtol * scale)
    assert posterior.log_likelihood == pytest.approx(dense.log_likelihood, rel=1e-9)
    assert posterior.log_marginal_likelihood == pytest.approx(dense.log_marginal_likelihood(), rel=rtol)
    log_determinant = sum(
        block.log_determinant(prior) for block, prior in zip(posterior.blocks, posterior.prior_precisions, strict=True)
    )
    assert log_determinant == pytest.approx(dense.log_determinant(), rel=rtol)


@pytest.fixture(scope="module")
def truths(reference, lora_model, lora_pairs):
    """The reference of a kind of model, made once."""
    made = {}

    def make(kind):
        if kind not in made:
            model = lora_model(kind, **OPTIONS[kind])
            made[kind] = (model, truth_of(reference, model, lora_pairs))
        return made[kind]

    return make


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", list(OPTIONS))
def test_float64_agrees_with_the_dense_reference(kind, structure, truths, lora_pairs, lora_texts):
    model, truth = truths(kind)
    options = {"prior_precision": PRIOR, "progress": False}
    if structure in ("kron", "ekfac"):
        options["max_rank"] = 512
    posterior = fit(model, lora_pairs, posterior=structure, **options).posterior
    assert posterior.kind == posterior.structure == structure
    assert posterior.num_parameters == truth.jacobian.shape[1]
    torch.testing.assert_close(posterior.gradient_mean.double(), truth.gradient_mean, rtol=1e-6, atol=1e-8)
    check(posterior, model, truth, truth.dense(structure, PRIOR), lora_texts)
    # the curvature matters: without it the variance would be that of the prior
    rows = truth.gradients(*lora_texts)[1] - truth.gradient_mean
    variance = posterior.exact(model, model.encode(*lora_texts))[1].square().sum(1)
    assert (variance < 0.99 * rows.square().sum(1) / PRIOR).any()


@pytest.mark.parametrize("max_rank", [1, 5, 20])
@pytest.mark.parametrize("structure", ["kron", "ekfac"])
def test_directions_left_out_share_their_average(structure, max_rank, truths, lora_pairs, lora_texts):
    model, truth = truths("llama")
    posterior = fit(
        model, lora_pairs, posterior=structure, prior_precision=PRIOR, max_rank=max_rank, progress=False
    ).posterior
    check(posterior, model, truth, truth.dense(structure, PRIOR, max_rank), lora_texts)
    whole = truth.curvature(structure)
    assert sum(block.trace() for block in posterior.blocks) == pytest.approx(float(whole.trace()))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_margins_and_centering_enter_the_curvature_and_labels_do_not(
    structure, reference, lora_model, lora_pairs, lora_texts
):
    model = lora_model("llama")
    rows = [{**row, "margin": 0.3 * place - 1, "p_chosen": 0.9} for place, row in enumerate(lora_pairs)]
    truth = truth_of(reference, model, rows, centering=0.01)
    options = {"prior_precision": PRIOR, "center_rewards_coefficient": 0.01, "progress": False}
    posterior = fit(model, rows, posterior=structure, **options).posterior
    check(posterior, model, truth, truth.dense(structure, PRIOR), lora_texts)
    relabelled = [{**row, "p_chosen": 0.2} for row in rows]
    other = fit(model, relabelled, posterior=structure, **options).posterior
    for block, same in zip(posterior.blocks, other.blocks, strict=True):
        assert torch.equal(block.eigenvalues, same.eigenvalues)
    assert other.log_likelihood != posterior.log_likelihood


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_prior_of_highest_evidence_is_found(structure, truths, lora_pairs):
    model, truth = truths("llama")
    posterior = fit(model, lora_pairs, posterior=structure, progress=False).posterior
    dense = truth.dense(structure, 1.0)
    values = torch.linalg.eigvalsh(dense.curvature).clamp_min(0)
    norm = float(truth.theta.square().sum())

    def evidence(prior):
        return dense.log_likelihood - 0.5 * prior * norm - 0.5 * float(torch.log1p(values / prior).sum())

    best = max(evidence(10.0**power) for power in torch.linspace(-4, 8, 2401).tolist())
    (prior,) = set(posterior.prior_precisions)
    assert posterior.log_marginal_likelihood == pytest.approx(evidence(prior), rel=1e-7)
    assert evidence(prior) >= best - 1e-4


@pytest.mark.parametrize("structure", ["kron", "ekfac", "diag"])
def test_each_layer_may_have_its_own_prior(structure, truths, lora_pairs, lora_texts):
    model, truth = truths("llama")
    posterior = fit(model, lora_pairs, posterior=structure, per_layer=True, progress=False).posterior
    priors = torch.tensor(posterior.prior_precisions, dtype=torch.float64)
    assert len(torch.unique(priors)) > 1
    check(posterior, model, truth, truth.dense(structure, priors), lora_texts)
    shared = fit(model, lora_pairs, posterior=structure, progress=False).posterior
    assert posterior.log_marginal_likelihood > shared.log_marginal_likelihood
    # each is at the peak of its own block's evidence
    curvature = truth.curvature(structure)
    for block, place, prior in zip(truth.blocks, truth.slices, posterior.prior_precisions, strict=True):
        values = torch.linalg.eigvalsh(curvature[place, place]).clamp_min(0)
        norm = float(truth.theta[place].square().sum())
        grid = torch.logspace(-4, 8, 601, dtype=torch.float64)
        peak = (-0.5 * grid * norm - 0.5 * torch.log1p(values / grid.unsqueeze(1)).sum(1)).max()
        found = -0.5 * prior * norm - 0.5 * float(torch.log1p(values / prior).sum())
        assert found >= float(peak) - 1e-4, block.name


def test_a_linear_model_in_closed_form(reference, lora_model, lora_pairs, lora_texts):
    # With B = 0 the reward does not move with A, and its derivative by the head is the feature vector: the head's block
    # alone is the Bayesian logistic regression on features, which every structure but diag has exactly.
    model = lora_model("llama", zero_b=True)
    truth = truth_of(reference, model, lora_pairs)
    features = model.features(truth.encoded)[0].double()
    texts = model.encode(*lora_texts)
    new = model.features(texts)[0].double()
    rewards = truth.rewards
    curvature = torch.zeros(32, 32, dtype=torch.float64)
    count = len(lora_pairs)
    for pair in range(count):
        chance = torch.sigmoid(rewards[pair] - rewards[count + pair])
        difference = features[pair] - features[count + pair]
        curvature += chance * (1 - chance) * torch.outer(difference, difference)
    covariance = torch.linalg.inv(curvature + PRIOR * torch.eye(32))
    posterior = fit(model, lora_pairs, posterior="ekfac", prior_precision=PRIOR, progress=False).posterior
    head = posterior.blocks[-1]
    found = head.variance((new[:1] - new[1:]).unsqueeze(1), PRIOR)
    expected = torch.stack([row @ covariance @ row for row in new[0] - new[1:]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    for block, place in zip(posterior.blocks, truth.slices, strict=True):
        if block.name.endswith("lora_A"):
            assert float(block.eigenvalues.abs().max()) == 0
            assert float(truth.jacobian[:, place].abs().max()) == 0


def test_kron_counts_what_the_pair_shares_as_known_and_ekfac_does_not(lora_model, lora_pairs, lora_texts):
    # A direction that moves chosen and rejected alike is not identified by pairs: `full` and `ekfac` leave it its prior
    # variance, the token factors do not.
    model = lora_model("llama", zero_b=True)
    variance = {}
    for structure in ("full", "ekfac", "kron"):
        posterior = fit(model, lora_pairs, posterior=structure, prior_precision=PRIOR, progress=False).posterior
        zero = torch.zeros_like(posterior.gradient_mean)
        raw = replace(posterior, gradient_mean=zero)
        variance[structure] = raw.exact(model, model.encode(*lora_texts))[1].square().sum(1).mean()
    assert variance["kron"] < variance["ekfac"]
    assert variance["kron"] < variance["full"]
