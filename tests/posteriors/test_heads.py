"""M heads against Newton's method member by member, Laplace's covariance by simulation, and known truths."""

from dataclasses import replace

import pytest
import torch

from prudent.errors import PosteriorError, UnsupportedError
from prudent.metrics import fit_logit_temperature, pair_scores
from prudent.posteriors import (
    Center,
    HeadsPosterior,
    LastLayerPosterior,
    fit_heads,
    fit_logistic,
    fit_quantile_heads,
)
from prudent.posteriors._heads_mlp import train_mlp
from prudent.posteriors._heads_network import apply_heads
from prudent.posteriors._heads_task import HeadsTask, member_generators, member_weights


def simulated(num_pairs: int, size: int, seed: int = 0, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Chosen and rejected features of pairs by Bradley-Terry under a known head."""
    generator = torch.Generator().manual_seed(seed)
    truth = sharpness * torch.ones(size) / size**0.5
    first, second = torch.randn(2, num_pairs, size, generator=generator)
    won = torch.rand(num_pairs, generator=generator) < torch.sigmoid((first - second) @ truth)
    return torch.where(won[:, None], first, second), torch.where(won[:, None], second, first)


def standardized(chosen: torch.Tensor, rejected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.cat([chosen, rejected]).double()
    return (chosen.double() - rejected.double()) / both.std(0, correction=0), both.std(0, correction=0)


def test_members_are_newton_modes_for_their_own_anchors_and_prompts_moved_to_the_mode_of_all():
    chosen, rejected = simulated(60, 4)
    label = torch.rand(60, generator=torch.Generator().manual_seed(5)).double()
    margin = torch.randn(60, generator=torch.Generator().manual_seed(6)).double()
    group = torch.arange(60) // 3
    fitted = fit_heads(
        chosen, rejected, label=label, margin=margin, group=group, num_members=3, prior_precision=2.0, seed=4
    )
    differences, scale = standardized(chosen, rejected)
    modes = []
    for generator in member_generators(4, 3):
        anchor = torch.randn(4, generator=generator, dtype=torch.float64) / 2.0**0.5
        counts = member_weights(group, [generator], bootstrap=True)[0].long()
        assert int(counts.sum()) == 60
        assert len(torch.unique(counts.reshape(20, 3), dim=1)[0]) == 1  # whole prompts
        # w minimises NLL + ||w - a||^2, so w - a is a logistic mode whose margin is shifted by what a explains.
        mode = fit_logistic(
            differences.repeat_interleave(counts, 0),
            2.0,
            label=label.repeat_interleave(counts),
            margin=(margin - differences @ anchor).repeat_interleave(counts),
        )
        modes.append((mode.weight + anchor) / scale)
    expected = torch.stack(modes)
    found = fitted.layers[0][0][:, 0].double()
    torch.testing.assert_close(found - found.mean(0), expected - expected.mean(0), rtol=1e-4, atol=1e-5)
    together = fit_logistic(differences, 2.0, label=label, margin=margin)
    torch.testing.assert_close(found.mean(0), together.weight / scale, rtol=1e-4, atol=1e-5)


def test_members_do_not_depend_on_how_many_there_are():
    chosen, rejected = simulated(80, 5)
    for kind in ("heads", "classification", "mean_variance"):
        many = fit_heads(chosen, rejected, kind=kind, num_members=5, prior_precision=3.0).members_of(chosen)
        few = fit_heads(chosen, rejected, kind=kind, num_members=2, prior_precision=3.0).members_of(chosen)
        torch.testing.assert_close(many[:, 0] - many[:, 1], few[:, 0] - few[:, 1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(many.mean(1), few.mean(1), rtol=1e-3, atol=1e-4)


def test_mlp_trained_together_is_the_one_trained_alone():
    chosen, rejected = simulated(60, 3)
    task = HeadsTask("heads", (chosen.double(), rejected.double()), torch.ones(60), torch.zeros(60), torch.arange(60))
    options = {"bootstrap": True, "prior_function": False, "seed": 0}
    together = train_mlp(task, 1.0, member_generators(0, 3), **options)
    alone = train_mlp(task, 1.0, member_generators(0, 3)[1:2], **options)
    # A bias that pairs leave free drifts with the rounding of its gradient; differences of rewards do not.
    outputs, expected = (apply_heads(layers, chosen) - apply_heads(layers, rejected) for layers in (together, alone))
    torch.testing.assert_close(outputs[1:2], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bootstrap", [True, False])
def test_covariance_of_many_members_tends_to_laplace(bootstrap):
    chosen, rejected = simulated(500, 3, sharpness=0.7)
    prior_precision = 60.0
    fitted = fit_heads(chosen, rejected, num_members=1500, bootstrap=bootstrap, prior_precision=prior_precision, seed=1)
    laplace = LastLayerPosterior.fit(chosen, rejected, prior_precision=prior_precision)
    scale = standardized(chosen, rejected)[1]
    factor = laplace.covariance_factor.double() * scale.unsqueeze(1)
    covariance = factor @ factor.T
    # Anchors and bootstrap together give S; anchors alone S precision S, which is smaller.
    expected = covariance if bootstrap else prior_precision * covariance @ covariance
    weights = fitted.layers[0][0][:, 0].double() * scale
    found = torch.cov(weights.T)
    # 1,500 members know a variance to 3.7 %; the bootstrap adds that of 500 pairs for their expected curvature.
    torch.testing.assert_close(found.diagonal(), expected.diagonal(), rtol=0.15, atol=0)
    assert (found - expected).abs().max() < 0.15 * expected.diagonal().max()
    assert (weights.mean(0) - laplace.weight.double() * scale).norm() < 0.15 * covariance.diagonal().sum().sqrt()


def test_classification_ranks_as_bradley_terry_does():
    chosen, rejected = simulated(300, 4, sharpness=20.0)  # all but separable
    one, other = (
        fit_heads(chosen, rejected, kind=kind, num_members=4).members_of(chosen).mean(1)
        for kind in ("heads", "classification")
    )
    ranks = torch.stack([values.argsort().argsort().double() for values in (one, other)])
    assert torch.corrcoef(ranks)[0, 1] > 0.99


def test_mean_variance_finds_the_noise_of_each_text():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6000, 3, generator=generator)

    def noise_variance(features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softplus(4 * features[:, 1])

    def utility(features: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(len(features), generator=generator) * noise_variance(features).sqrt()
        return 3 * features[:, 0] + noise

    won = torch.rand(6000, generator=generator) < torch.sigmoid(utility(first) - utility(second))
    chosen, rejected = torch.where(won[:, None], first, second), torch.where(won[:, None], second, first)
    fitted = fit_heads(chosen, rejected, kind="mean_variance", num_members=2, bootstrap=False, prior_precision=0.05)
    features = torch.randn(500, 3, generator=generator)
    members, noise = fitted.members_and_noise(features)
    truth = noise_variance(features)
    assert torch.corrcoef(torch.stack([noise, truth]))[0, 1] > 0.95
    assert noise.mean().item() == pytest.approx(truth.mean().item(), rel=0.3)
    weight = fitted.mean_head[0]
    torch.testing.assert_close(weight, torch.tensor([3.0, 0.0, 0.0]), rtol=0.15, atol=0.3)
    # The noise is no part of the epistemic variance.
    predicted = fitted.predict_features(features, group=torch.zeros(500), reference_weight=torch.zeros(500))
    torch.testing.assert_close(predicted.variance, members.var(1), rtol=1e-4, atol=1e-6)
    assert torch.equal(predicted.noise, noise)


def test_noise_of_a_pair_is_that_of_both_texts_and_none_against_itself():
    chosen, rejected = simulated(50, 3)
    fitted = fit_heads(chosen, rejected, kind="mean_variance", num_members=3)
    found = fitted.contrasts_of(chosen[:4], torch.tensor([0, 1]), torch.tensor([2, 1]))
    members, noise = fitted.members_and_noise(chosen[:4])
    assert found.noise[0].item() == pytest.approx(float(noise[0] + noise[2]))
    assert (found.noise[1], found.mean[1], found.variance[1]) == (0, 0, 0)
    assert found.variance[0].item() == pytest.approx(float((members[0] - members[2]).var()), rel=1e-4)


@pytest.mark.parametrize(("architecture", "count", "error"), [("linear", 2500, 0.03), ("mlp", 1000, 0.05)])
def test_quantiles_are_calibrated_and_in_order(architecture, count, error):
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.randn(count, 3, generator=generator)
        spread = 5 * (1 + 0.5 * torch.tanh(features[:, 1]))
        return features, 100 + 10 * features[:, 0] + spread * torch.randn(count, generator=generator)

    fitted = fit_quantile_heads(*draw(count), num_members=2, architecture=architecture, bootstrap=False)
    features, scores = draw(4000)
    quantiles = fitted.quantiles_of(features)
    assert quantiles.shape == (4000, 2, 19)
    assert bool((quantiles.diff(dim=-1) >= 0).all())
    share = (scores[:, None] < quantiles.mean(1)).double().mean(0)
    levels = torch.arange(1, 20) / 20
    assert (share - levels).abs().max() < error
    members, noise = fitted.members_and_noise(features)
    torch.testing.assert_close(members, quantiles.mean(-1), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(noise, quantiles.var(-1, correction=0).mean(1), rtol=1e-3, atol=1e-3)
    # 19 quantiles hold 0.75 of a Gaussian's variance.
    truth = 0.75 * (5 * (1 + 0.5 * torch.tanh(features[:, 1]))).square()
    assert noise.mean().item() == pytest.approx(truth.mean().item(), rel=0.15)
    assert torch.corrcoef(torch.stack([noise, truth]))[0, 1] > 0.85


@pytest.mark.parametrize("diversity", ["anchor", "prior_function"])
def test_mlp_heads_spread_more_where_there_are_no_pairs(diversity):
    chosen, rejected = simulated(150, 2, sharpness=3.0)
    fitted = fit_heads(chosen, rejected, architecture="mlp", diversity=diversity, num_members=6, prior_precision=0.5)
    assert fitted.num_members == 6
    assert fitted.num_summands == (2 if diversity == "prior_function" else 1)
    near = fitted.contrasts_of(torch.cat([chosen, rejected]), torch.arange(150), torch.arange(150, 300))
    assert (near.mean > 0).double().mean() > 0.7
    far = fitted.contrasts_of(6 * torch.cat([chosen, rejected]), torch.arange(150), torch.arange(150, 300))
    assert far.variance.mean() > 4 * near.variance.mean()
    # Every head's rewards are centred on the texts fitted on.
    average = fitted.members_of(torch.cat([chosen, rejected])).mean(0)
    torch.testing.assert_close(average, torch.zeros(6), rtol=0, atol=1e-4)
    again = fit_heads(chosen, rejected, architecture="mlp", diversity=diversity, num_members=6, prior_precision=0.5)
    assert torch.equal(again.members_of(chosen), fitted.members_of(chosen))


def test_mlp_heads_that_overflow_say_so():
    chosen, rejected = simulated(40, 3)
    with pytest.raises(PosteriorError, match=r"member 0 of the mlp heads has no finite loss .* larger prior_precision"):
        fit_heads(chosen, rejected, architecture="mlp", num_members=2, prior_precision=1e-80)


def judged(count: int) -> tuple[HeadsPosterior, torch.Tensor]:
    """Heads for scores with noise of their own, and pairs that other such scores order."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.randn(count, 4, generator=generator)
        return features, features[:, 0] + torch.randn(count, generator=generator)

    fitted = fit_quantile_heads(*draw(), num_members=2)
    (first, one), (second, other) = draw(), draw()
    won = (one > other).unsqueeze(1)
    return fitted, torch.cat([torch.where(won, first, second), torch.where(won, second, first)])


def test_the_scale_of_logits_counts_noise_once():
    fitted, features = judged(1500)
    place, label = torch.arange(1500), torch.ones(1500)

    def nll(posterior: HeadsPosterior) -> float:
        found = posterior.contrasts_of(features, place, place + 1500)
        return float(pair_scores(found.mean, found.variance + found.noise, label).nll.mean())

    scaled = fitted.with_logit_scale_for(features, place, place + 1500, label)
    tried = {factor: nll(replace(scaled, logit_scale=factor * scaled.logit_scale)) for factor in (0.5, 0.8, 1.25, 2.0)}
    assert nll(scaled) < min(tried.values())
    # The factor that suits the mean alone has absorbed the noise.
    alone = 1 / fit_logit_temperature(fitted.contrasts_of(features, place, place + 1500).mean, label)
    assert scaled.logit_scale > 1.5 * alone
    assert nll(scaled) < nll(replace(fitted, logit_scale=alone)) - 0.002
    # The scale it had before, and the unit of the scores, are of no consequence.
    again = replace(scaled, logit_scale=7.0).with_logit_scale_for(features, place, place + 1500, label)
    assert again.logit_scale == pytest.approx(scaled.logit_scale)


def test_pairs_without_a_best_scale():
    fitted, features = judged(200)
    place, label = torch.arange(200), torch.ones(200)
    with pytest.raises(PosteriorError, match="no better than by chance"):
        fitted.with_logit_scale_for(features, place + 200, place, label)
    # All pairs are ranked as labelled, so the larger the better; one pair in doubt keeps the scale finite.
    mean = fitted.contrasts_of(features, place, place + 200).mean
    right = place[mean > 0][:20]
    scaled = fitted.with_logit_scale_for(features, right, right + 200, torch.ones(20))
    assert 1 < scaled.logit_scale * scaled.score_std < 100
    chosen, rejected = simulated(30, 4)
    with pytest.raises(PosteriorError, match="only quantile heads"):
        fit_heads(chosen, rejected, num_members=2).with_logit_scale_for(features, place, place + 200, label)


def test_contrasts_in_parts_are_those_at_once(monkeypatch):
    chosen, rejected = simulated(50, 3)
    fitted = fit_heads(chosen, rejected, num_members=3)
    features, places = torch.cat([chosen, rejected]), (torch.arange(50), torch.arange(50, 100))
    whole = fitted.contrasts_of(features, *places)
    monkeypatch.setattr("prudent.posteriors._heads._PAIRS_AT_ONCE", 7)
    parts = fitted.contrasts_of(features, *places)
    for name in ("mean", "variance", "noise"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_prediction_is_the_moments_of_the_members():
    chosen, rejected = simulated(60, 3)
    fitted = fit_heads(chosen, rejected, num_members=7)
    features = chosen[:8]
    group = torch.tensor([3, 3, 3, 3, 9, 9, 9, 9])
    weight = torch.tensor([1.0, 1, 0, 0, 0, 2, 1, 0])
    predicted = fitted.predict_features(features, group=group, reference_weight=weight)
    members = predicted.members
    assert torch.equal(members, fitted.members_of(features))
    averages = torch.stack([members[:2].mean(0), (2 * members[5] + members[6]) / 3])[group // 9]
    torch.testing.assert_close(predicted.variance, members.var(1))
    torch.testing.assert_close(predicted.centered_variance, (members - averages).var(1))
    torch.testing.assert_close(predicted.reference_mean, averages.mean(1))
    mean, factor = fitted._mean_and_deviations(members)
    torch.testing.assert_close(factor @ factor.T, torch.cov(members))
    center = Center(mean=float(mean[:2].mean()), factor=factor[:2].mean(0))
    part = fitted.predict_features(features[2:4], group=group[2:4], reference_weight=weight[2:4], centers={3: center})
    torch.testing.assert_close(part.centered_variance, predicted.centered_variance[2:4])
    torch.testing.assert_close(part.reference_mean, predicted.reference_mean[2:4])


def test_a_mean_head_moves_all_members_alike():
    chosen, rejected = simulated(60, 3)
    fitted = fit_heads(chosen + 5, rejected + 5, num_members=4)
    weight, bias = torch.tensor([1.0, -2.0, 0.5]), 0.25
    moved = fitted.with_mean_head(weight, bias)
    features = chosen[:6] + 5
    torch.testing.assert_close(moved.members_of(features).mean(1), features @ weight + bias, rtol=1e-4, atol=1e-4)
    before, after = fitted.members_of(features), moved.members_of(features)
    torch.testing.assert_close(
        before - before.mean(1, keepdim=True), after - after.mean(1, keepdim=True), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(moved.mean_head[0], weight)
    assert moved.mean_head[1] == pytest.approx(bias, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [("heads", "linear"), ("mean_variance", "linear"), ("quantile", "linear"), ("heads", "mlp")],
)
def test_state_round_trip_is_exact(kind, architecture):
    chosen, rejected = simulated(40, 3)
    if kind == "quantile":
        fitted = fit_quantile_heads(chosen, chosen[:, 0] + rejected[:, 1], num_members=2, prior_precision=1.0)
    else:
        fitted = fit_heads(
            chosen, rejected, kind=kind, architecture=architecture, num_members=2, diversity="prior_function"
        )
    again = HeadsPosterior.from_state(*fitted.state())
    assert again.basis_id == fitted.basis_id
    for found, expected in zip(again.members_and_noise(chosen), fitted.members_and_noise(chosen), strict=True):
        assert torch.equal(found, expected)
    assert again.state()[1] == fitted.state()[1]


def test_what_cannot_be_fitted_is_refused():
    chosen, rejected = simulated(20, 3)
    with pytest.raises(PosteriorError, match="num_members is 1; a spread needs at least 2"):
        fit_heads(chosen, rejected, num_members=1)
    with pytest.raises(PosteriorError, match="at least two preference pairs"):
        fit_heads(chosen[:1], rejected[:1])
    with pytest.raises(PosteriorError, match=r"places \[3\], from 0"):
        fit_heads(torch.where(torch.arange(20)[:, None] == 3, torch.nan, chosen), rejected)
    with pytest.raises(PosteriorError, match="same features"):
        fit_heads(chosen, chosen)
    with pytest.raises(UnsupportedError, match="pair at place 7 has one"):
        fit_heads(chosen, rejected, kind="classification", margin=(torch.arange(20) == 7).double())
    with pytest.raises(ValueError, match="fit_quantile_heads"):
        fit_heads(chosen, rejected, kind="quantile")
    with pytest.raises(PosteriorError, match="all scores are equal"):
        fit_quantile_heads(chosen, torch.ones(20))
    with pytest.raises(PosteriorError, match="scores of the response at place 2"):
        fit_quantile_heads(chosen, torch.where(torch.arange(20) == 2, torch.inf, chosen[:, 0]))
    with pytest.raises(PosteriorError, match="at least two responses"):
        fit_quantile_heads(chosen[:1], chosen[:1, 0])
    with pytest.raises(PosteriorError, match="at least 20 data"):
        fit_heads(chosen[:19], rejected[:19], architecture="mlp")
    with pytest.raises(PosteriorError, match="no quantiles"):
        fit_heads(chosen, rejected, num_members=2).quantiles_of(chosen)
    with pytest.raises(PosteriorError, match="not a linear head"):
        _ = fit_quantile_heads(chosen, chosen[:, 0], num_members=2).mean_head
