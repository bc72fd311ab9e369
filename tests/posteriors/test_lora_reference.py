"""The reference is checked before anything is checked against it: closed forms, finite differences, autograd."""

import pytest
import torch

CASES = [
    ("llama", {}),
    ("llama", {"use_rslora": True, "r": 3}),
    ("bert", {"modules_to_save": ["pooler"]}),
    ("roberta", {}),
    ("gpt2", {"r": 4}),
    ("qwen2", {}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_gradients_are_finite_differences_and_sums_over_tokens(kind, options, reference, lora_model, lora_texts):
    model = lora_model(kind, **options)
    encoded = model.encode(*(side[4:8] for side in lora_texts))
    blocks = reference.parameter_blocks(model.model)
    rewards, jacobian = reference.gradients(model.model, blocks, encoded)
    torch.testing.assert_close(
        rewards.float(), model.rewards(*(side[4:8] for side in lora_texts)), rtol=1e-4, atol=1e-5
    )
    terms = reference.token_terms(model.model, blocks, encoded)
    for place, (_, expected) in enumerate(reference.named_gradients(blocks, jacobian)):
        found = torch.stack([one.gradients.T @ one.inputs for one in terms[place]])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))
    generator = torch.Generator().manual_seed(0)
    step = 1e-4
    for _ in range(3):
        direction = torch.randn(jacobian.shape[1], generator=generator, dtype=torch.float64)
        direction /= direction.norm()
        moved = [_moved(reference, model.model, blocks, encoded, sign * step * direction) for sign in (1, -1)]
        # Llama and Qwen2 normalise in float32 whatever the model's dtype
        torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), jacobian @ direction, rtol=2e-3, atol=2e-3)


@torch.no_grad()
def _moved(reference, model, blocks, encoded, change):
    values = []
    for sign in (1, -1):
        for block, place in zip(blocks, reference.slices(blocks), strict=True):
            part = sign * change[place].reshape(block.shape)
            block.module.weight += part[:, : block.module.in_features]
            if block.bias:
                block.module.bias += part[:, -1]
        if sign == 1:
            values = [reference.text_reward(model, encoded, row) for row in range(len(encoded))]
    return torch.stack(values)


def test_pair_curvature_is_the_hessian_of_a_linear_model(reference):
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    theta = torch.randn(5, generator=generator, dtype=torch.float64)
    margin, label = torch.rand(2, 4, generator=generator, dtype=torch.float64)
    pairs = reference.Pairs(torch.arange(4), torch.arange(4, 8), margin, label, centering=0.3)

    def loss(weight):
        rewards = jacobian @ weight
        common = rewards[pairs.chosen] + rewards[pairs.rejected]
        logit = rewards[pairs.chosen] - rewards[pairs.rejected] - margin
        likelihood = label * torch.sigmoid(logit).log() + (1 - label) * torch.sigmoid(-logit).log()
        return -likelihood.sum() + 0.3 * common.square().sum()

    found = reference.pair_ggn(jacobian, jacobian @ theta, pairs)
    torch.testing.assert_close(found, torch.func.hessian(loss)(theta))
    assert pairs.log_likelihood(jacobian @ theta) == pytest.approx(
        -float(loss(theta)) + 0.3 * float((jacobian[:4] @ theta + jacobian[4:] @ theta).square().sum())
    )


def test_evidence_is_the_gaussian_integral(reference):
    # for a quadratic log-likelihood with its maximum at theta the evidence is a ratio of Gaussian normalisers
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    theta = torch.tensor([0.3, -0.2], dtype=torch.float64)
    prior = torch.tensor([2.0, 5.0], dtype=torch.float64)
    dense = reference.Dense(root @ root.T, prior, theta, log_likelihood=-1.5)
    grid = torch.linspace(-8, 8, 1601, dtype=torch.float64)
    offset = torch.cartesian_prod(grid, grid)
    curve = offset @ (dense.curvature + torch.diag(prior)) * offset
    density = -1.5 - 0.5 * float((prior * theta.square()).sum()) - 0.5 * curve.sum(1)
    normaliser = 0.5 * float(prior.log().sum()) - torch.tensor(2 * torch.pi).log()
    exact = float(torch.logsumexp(density, 0)) + 2 * torch.log(grid[1] - grid[0]) + normaliser
    assert dense.log_marginal_likelihood() == pytest.approx(float(exact), abs=1e-6)


def test_kronecker_factors_are_exact_where_theory_says_so(reference):
    # One token a text and the same output gradient in all texts, as the head has: the Kronecker product is exact for a
    # curvature without the pairs' cross terms.
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    terms = [reference.Terms(row.unsqueeze(0), torch.ones(1, 1, dtype=torch.float64)) for row in inputs]
    zeros = torch.zeros(3, dtype=torch.float64)
    pairs = reference.Pairs(torch.arange(3), torch.arange(3, 6), zeros, zeros + 1)
    rewards = torch.zeros(6, dtype=torch.float64)
    found = reference.kron_block(*reference.kronecker_factors(terms, rewards, pairs))
    torch.testing.assert_close(found, 0.25 * inputs.T @ inputs)


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (5, 2)])
def test_the_eigenbasis_of_differences(shape, reference):
    generator = torch.Generator().manual_seed(3)
    matrices = torch.randn(8, *shape, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(4, dtype=torch.float64)
    pairs = reference.Pairs(torch.arange(4), torch.arange(4, 8), zeros, zeros, centering=0.2)
    rewards = torch.randn(8, generator=generator, dtype=torch.float64)
    exact = reference.pair_ggn(matrices.flatten(1), rewards, pairs)
    inputs, outputs = reference.difference_factors(matrices, rewards, pairs)
    # the factors are the partial traces of the exact block
    blocks = exact.reshape(*shape, *shape)
    torch.testing.assert_close(inputs, torch.einsum("iaib->ab", blocks))
    torch.testing.assert_close(outputs, torch.einsum("aibi->ab", blocks))
    ekfac = reference.ekfac_block(exact, inputs, outputs)
    assert float(ekfac.trace()) == pytest.approx(float(exact.trace()))
    if shape[0] == 1:
        torch.testing.assert_close(ekfac, exact)
    # of all matrices diagonal in that basis it is the nearest, so it is nearer than the Kronecker product
    kron = reference.kron_block(inputs, outputs, float(exact.trace()))
    assert (ekfac - exact).norm() <= (kron - exact).norm() + 1e-12
    cut = reference.ekfac_block(exact, inputs, outputs, max_rank=2)
    assert float(cut.trace()) == pytest.approx(float(exact.trace()))
    assert len(torch.unique(torch.linalg.eigvalsh(cut).round(decimals=8))) <= min(shape) * 3
