"""The last-layer posterior against dense quadratic forms, invariances and simulation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prudent.errors import PosteriorError
from prudent.posteriors import LastLayerPosterior
from prudent.posteriors._protocol import Center


def features_of_pairs(num_pairs: int = 120, size: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-1, 1, size)
    chosen = torch.randn(num_pairs, size, generator=generator) * scale + 0.4 * scale + 3
    return chosen, torch.randn(num_pairs, size, generator=generator) * scale + 3


def predict(posterior: LastLayerPosterior, features: torch.Tensor, group: torch.Tensor, weight: torch.Tensor, **more):
    return posterior.predict_features(features, group=group, reference_weight=weight, **more)


def test_variances_are_the_dense_quadratic_forms():
    chosen, rejected = features_of_pairs()
    posterior = LastLayerPosterior.fit(chosen, rejected, prior_precision=2.0)
    # The covariance written out: standardised differences, p(1-p), prior, inverse.
    both = torch.cat([chosen, rejected]).double()
    scale = both.std(0, correction=0)
    differences = (chosen.double() - rejected.double()) / scale
    chance = torch.sigmoid(differences @ (posterior.weight.double() * scale))
    precision = differences.T @ (differences * (chance * (1 - chance)).unsqueeze(1)) + 2.0 * torch.eye(6)
    covariance = torch.linalg.inv(precision) / scale.outer(scale)
    features = features_of_pairs(8, seed=1)[0]
    group = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    weight = torch.tensor([1.0, 1, 0, 0, 0, 2, 1, 0])
    predicted = predict(posterior, features, group, weight, with_factor=True)
    rows = features.double() - both.mean(0)
    torch.testing.assert_close(predicted.variance.double(), ((rows @ covariance) * rows).sum(1), rtol=1e-4, atol=1e-5)
    averages = torch.stack([rows[:2].mean(0), (2 * rows[5] + rows[6]) / 3])[group]
    centered = (((rows - averages) @ covariance) * (rows - averages)).sum(1)
    torch.testing.assert_close(predicted.centered_variance.double(), centered, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predicted.reference_mean[0], predicted.mean[:2].mean())
    contrast = rows[0] - rows[5]
    stored = predicted.factor[0] - predicted.factor[5]
    torch.testing.assert_close(stored.square().sum().double(), contrast @ covariance @ contrast, rtol=1e-4, atol=1e-5)


def test_given_centers_replace_reference_rows():
    chosen, rejected = features_of_pairs()
    posterior = LastLayerPosterior.fit(chosen, rejected)
    group = torch.zeros(10, dtype=torch.int64)
    weight = torch.tensor([1.0] * 4 + [0.0] * 6)
    whole = predict(posterior, chosen[:10], group, weight)
    exact = posterior.exact_factor(chosen[:4])
    center = Center(mean=float(whole.mean[:4].mean()), factor=exact.mean(0))
    part = predict(posterior, chosen[4:10], group[4:], weight[4:], centers={0: center})
    torch.testing.assert_close(part.centered_variance, whole.centered_variance[4:])
    torch.testing.assert_close(part.reference_mean, whole.reference_mean[4:])


def test_no_references_means_not_known():
    chosen, rejected = features_of_pairs()
    predicted = predict(LastLayerPosterior.fit(chosen, rejected), chosen[:2], torch.tensor([0, 1]), torch.zeros(2))
    assert predicted.centered_variance.isnan().all()
    assert predicted.reference_mean.isnan().all()
    assert predicted.variance.isfinite().all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), power=st.floats(-2, 2))
def test_standardised_posterior_ignores_units_and_origin(seed, power):
    chosen, rejected = features_of_pairs(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    units = torch.exp(torch.randn(6, generator=generator)) * 10.0**power
    origin = torch.randn(6, generator=generator) * units
    first = LastLayerPosterior.fit(chosen, rejected, prior_precision=1.0, head_bias=0.0)
    second = LastLayerPosterior.fit(
        chosen * units + origin, rejected * units + origin, prior_precision=1.0, head_bias=0.0
    )
    group, weight = torch.zeros(20, dtype=torch.int64), torch.ones(20)
    a = predict(first, chosen[:20], group, weight)
    b = predict(second, chosen[:20] * units + origin, group, weight)
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(a.variance, b.variance, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(a.centered_variance, b.centered_variance, rtol=1e-2, atol=1e-4)


def test_temperature_scales_the_covariance_alone():
    chosen, rejected = features_of_pairs()
    group, weight = torch.zeros(5, dtype=torch.int64), torch.ones(5)
    plain = predict(LastLayerPosterior.fit(chosen, rejected), chosen[:5], group, weight)
    cold = predict(LastLayerPosterior.fit(chosen, rejected, posterior_temperature=0.25), chosen[:5], group, weight)
    torch.testing.assert_close(cold.mean, plain.mean)
    torch.testing.assert_close(cold.variance, 0.25 * plain.variance)
    with pytest.raises(ValueError, match="posterior_temperature"):
        LastLayerPosterior.fit(chosen, rejected, posterior_temperature=0.0)


def test_intervals_of_contrasts_cover_the_truth():
    hits = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randn(10, generator=generator)
        first, second = torch.randn(2, 300, 10, generator=generator)
        won = torch.rand(300, generator=generator) < torch.sigmoid((first - second) @ truth)
        chosen = torch.where(won.unsqueeze(1), first, second)
        rejected = torch.where(won.unsqueeze(1), second, first)
        posterior = LastLayerPosterior.fit(chosen, rejected, standardize=False)
        new = torch.randn(200, 10, generator=generator)
        rows = posterior.exact_factor(new)
        contrast = (new[:100] - new[100:]) @ (posterior.weight - truth)
        std = (rows[:100] - rows[100:]).norm(dim=1)
        hits.append((contrast.abs() < 1.645 * std).float().mean())
    assert torch.stack(hits).mean().item() == pytest.approx(0.9, abs=0.03)


def test_wide_factors_are_projected_with_the_stated_error():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 400, 700, generator=generator)
    posterior = LastLayerPosterior.fit(chosen + 0.1, rejected, prior_precision=50.0)
    assert posterior.factor_size == 256
    exact = posterior.exact_factor(chosen[:200])
    stored = posterior.stored_factor(exact)
    assert stored.shape == (200, 256)
    true = (exact[:100] - exact[100:]).square().sum(1)
    ratio = (stored[:100] - stored[100:]).square().sum(1) / true
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.05)
    # sqrt(2 / 256) for independent projections; orthonormal columns do better.
    assert ratio.std().item() < (2 / 256) ** 0.5 * 1.2
    torch.testing.assert_close(stored, posterior.stored_factor(exact))


def test_a_constant_feature_changes_nothing():
    chosen, rejected = features_of_pairs()
    group, weight = torch.zeros(5, dtype=torch.int64), torch.ones(5)
    plain = predict(LastLayerPosterior.fit(chosen, rejected, prior_precision=1.0), chosen[:5], group, weight)
    ones = torch.full((120, 1), 7.0)
    wider = LastLayerPosterior.fit(torch.cat([chosen, ones], 1), torch.cat([rejected, ones], 1), prior_precision=1.0)
    more = predict(wider, torch.cat([chosen, ones], 1)[:5], group, weight)
    torch.testing.assert_close(more.variance, plain.variance, rtol=1e-4, atol=1e-5)


def test_kept_head_is_the_mean():
    chosen, rejected = features_of_pairs()
    trained = torch.tensor([0.1, -0.2, 0.3, 0.0, 0.5, 0.02])
    posterior = LastLayerPosterior.fit(chosen, rejected, head="kept", head_weight=trained, head_bias=0.7)
    torch.testing.assert_close(posterior.weight, trained)
    assert posterior.bias == pytest.approx(0.7)
    with pytest.raises(ValueError, match="head_weight"):
        LastLayerPosterior.fit(chosen, rejected, head="kept")
    with pytest.raises(PosteriorError, match="mean-pooled"):
        LastLayerPosterior.fit(chosen, rejected, head="kept", head_weight=trained, pooling="mean")


@pytest.mark.parametrize(
    ("chosen", "rejected", "words"),
    [
        (torch.zeros(1, 3), torch.ones(1, 3), "at least two"),
        (torch.full((4, 3), torch.nan), torch.ones(4, 3), r"places \[0, 1, 2, 3\]"),
        (torch.ones(4, 3), torch.ones(4, 3), "same features"),
    ],
)
def test_pairs_that_cannot_be_fitted_are_refused(chosen, rejected, words):
    with pytest.raises(PosteriorError, match=words):
        LastLayerPosterior.fit(chosen, rejected)


def test_state_round_trip_is_exact():
    chosen, rejected = features_of_pairs()
    posterior = LastLayerPosterior.fit(chosen, rejected)
    again = LastLayerPosterior.from_state(*posterior.state())
    assert again.basis_id == posterior.basis_id
    assert torch.equal(again.covariance_factor, posterior.covariance_factor)
    assert torch.equal(again.weight, posterior.weight)
    assert again.prior_precision == posterior.prior_precision
