"""A pool scored by an ensemble comes back as the mixture that the ensemble is."""

import pytest
import torch

from prudent.errors import UnsupportedError
from prudent.models import RewardModel
from prudent.posteriors import EnsembleScorer, ModelScorer, PlainRewards, ScoredMember, fit
from prudent.rewards import MemberRewards
from prudent.scoring import read_scored, score, select

PAIRS = [
    {"prompt": f"name a fruit {word}", "chosen": f"apple {word} yes", "rejected": f"{word} stone house"}
    for word in ("one", "two", "three", "four", "five", "six")
]
POOLS = [
    {"prompt": "name a fruit", "responses": ["apple", "stone", "pear plum", "apple"]},
    {"prompt": "another one", "responses": ["river door", "plum", "bird"]},
]


@pytest.fixture(scope="module")
def members(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    found = []
    for kind in ("llama", "qwen2"):
        posterior = fit(tiny_models(kind), PAIRS, folder / kind, progress=False).posterior
        found.append((RewardModel.from_pretrained(folder / kind), posterior))
    return found


def test_an_ensemble_of_posteriors_is_read_back_with_what_is_within_members(members, centered_rewards, tmp_path):
    scales = ((1.0, 0.0), (2.0, 0.5))
    scorer = EnsembleScorer(
        [ScoredMember(f"m{place}", ModelScorer(*member), *scales[place]) for place, member in enumerate(members)]
    )
    alone = []
    for place, ((model, posterior), (scale, offset)) in enumerate(zip(members, scales, strict=True)):
        score(model, POOLS, tmp_path / f"m{place}", posterior=posterior, factor=True, progress=False)
        one = read_scored(tmp_path / f"m{place}").posterior()
        alone.append((scale * one.mean + offset, scale**2 * one.variance, scale**2 * one.contrast(0, [1, 2, 3])[1]))
    score(scorer, POOLS, tmp_path / "factor", factor=True, progress=False)
    score(scorer, POOLS, tmp_path / "single", progress=False)
    joint, single = (read_scored(tmp_path / name).posterior() for name in ("factor", "single"))
    means, within, contrasts = (torch.stack(parts, 1) for parts in zip(*alone, strict=True))
    for posterior in (joint, single):
        assert isinstance(posterior, MemberRewards)
        assert (posterior.basis_id, posterior.ddof) == (scorer.basis_id, 1)
        torch.testing.assert_close(posterior.members, means, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(posterior.within_variance, within.mean(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(posterior.variance, means.var(1) + within.mean(1), rtol=1e-4, atol=1e-6)
    stored = read_scored(tmp_path / "single").column("reward_variance").float()
    torch.testing.assert_close(stored, single.variance, rtol=1e-5, atol=1e-6)
    # centred, the parts between and within members are those of each member alone; "apple" counts twice
    singles = [read_scored(tmp_path / f"m{place}") for place in range(2)]
    references = [one.column("reward_reference") for one in singles]
    centers = torch.stack([scale * one + offset for one, (scale, offset) in zip(references, scales, strict=True)], 1)
    own = [one.column("reward_centered_variance") for one in singles]
    centered = centered_rewards(read_scored(tmp_path / "single"))
    assert isinstance(centered, MemberRewards)
    torch.testing.assert_close(centered.members, means.double() - centers, rtol=1e-4, atol=1e-5)
    expected = torch.stack([scale**2 * one for one, (scale, _) in zip(own, scales, strict=True)], 1).mean(1)
    torch.testing.assert_close(centered.within_variance, expected, rtol=1e-3, atol=1e-6)
    stored = read_scored(tmp_path / "single").column("reward_centered_variance")
    torch.testing.assert_close(centered.variance, stored, rtol=1e-4, atol=1e-6)
    between = (means[:1] - means[1:4]).var(1)
    # the factor of several members is a random projection to 256 columns: a contrast is within a tenth or so
    torch.testing.assert_close(joint.contrast(0, [1, 2])[1], (between + contrasts.mean(1))[:2], rtol=0.5, atol=1e-3)
    assert joint.contrast(0, 3)[1].item() == 0  # the same text
    with pytest.raises(UnsupportedError, match=r"MemberRewards .* prob_best.*score --factor"):
        select(tmp_path / "single", utility="prob_best")
    assert select(tmp_path / "factor", utility="prob_best").num_prompts == 2


def test_plain_members_are_read_back_as_they_are(members, tmp_path):
    scorer = EnsembleScorer(
        [ScoredMember(f"m{place}", ModelScorer(model, PlainRewards())) for place, (model, _) in enumerate(members)]
    )
    score(scorer, POOLS, tmp_path / "plain", progress=False)
    posterior = read_scored(tmp_path / "plain").posterior()
    assert isinstance(posterior, MemberRewards)
    assert posterior.is_discrete
    assert (4 * posterior.prob_best() % 1 == 0).all()  # shares of two members, a tie halving one
    assert select(tmp_path / "plain", utility="entropic").num_prompts == 2
