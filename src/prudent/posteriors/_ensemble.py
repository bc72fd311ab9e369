"""An ensemble of reward models: what its members say, each on the common scale, and how far they disagree.

The posterior is a mixture: r = mu_m + e, with member m drawn uniformly and e from that member's own posterior where it
has one. Means and covariances follow by the law of total variance, jointly over responses: the covariance of the
members' rewards (divided by M - 1) plus the average of their own covariances.

References:
    Coste et al., Reward Model Ensembles Help Mitigate Overoptimization, https://arxiv.org/abs/2310.02743, 2024.
    Zhang et al., Efficient Reward Model Ensemble, https://arxiv.org/abs/2401.16635, 2024.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from prudent.errors import DataError, PosteriorError, UnsupportedError
from prudent.models import EncodedTexts, Message, rewards_of_each, tokenizer_hash
from prudent.posteriors._member_texts import MemberPairs, MemberTexts
from prudent.posteriors._plain import plain_prediction
from prudent.posteriors._projection import STORED_COLUMNS, Projection
from prudent.posteriors._protocol import Center, Contrasts, Prediction
from prudent.posteriors._scorer import ModelScorer

__all__ = ["EnsembleScorer", "ScoredMember", "mixture"]

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class ScoredMember:
    """One member of a loaded ensemble; its reward enters as `scale * r + offset`.

    Attributes:
        name: for messages and columns.
        scorer: the model with its own posterior, if it has one.
        scale: logits per unit of its reward, positive.
        offset: added, in logits.
    """

    name: str
    scorer: ModelScorer
    scale: float = 1.0
    offset: float = 0.0

    def on_common_scale(self, found: Prediction) -> Prediction:
        """What the model says, in logits; a model without a posterior adds no variance of its own."""
        square = self.scale**2
        silent = not self.scorer.has_variance
        return Prediction(
            mean=self.scale * found.mean + self.offset,
            variance=torch.zeros_like(found.mean) if silent else square * found.variance,
            noise=square * found.noise,
            reference_mean=self.scale * found.reference_mean + self.offset,
            centered_variance=torch.zeros_like(found.mean) if silent else square * found.centered_variance,
            factor=None if found.factor is None else self.scale * found.factor,
        )


class EnsembleScorer:
    """M reward models as one posterior.

    Args:
        members: at least two.

    Raises:
        PosteriorError: fewer than two, or names that repeat.
    """

    def __init__(self, members: Sequence[ScoredMember]) -> None:
        if len(members) < 2:
            raise PosteriorError(
                f"an ensemble needs at least two members, there {'is' if len(members) == 1 else 'are'} {len(members)}; "
                "one member has no spread"
            )
        names = [member.name for member in members]
        if len(set(names)) < len(names):
            raise PosteriorError(f"two members are called {max(names, key=names.count)}; give each a name of its own")
        self.members = tuple(members)
        # Members that tokenize alike share the tokens.
        ways = [(tokenizer_hash(model.tokenizer), model.max_length) for model in self._models()]
        self._ways = list(dict.fromkeys(ways))
        self._which = tuple(self._ways.index(way) for way in ways)

    @property
    def kind(self) -> str:
        """`ensemble`."""
        return "ensemble"

    @cached_property
    def basis_id(self) -> str:
        """Names the members and their scales."""
        described = [self._described(member) for member in self.members]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def has_variance(self) -> bool:
        """True: the members' spread is known, even where their own variances are not."""
        return True

    @property
    def num_members(self) -> int:
        """M."""
        return len(self.members)

    def identity(self) -> dict[str, Any]:
        """See `prudent.posteriors.Scorer.identity`."""
        entries = [member.scorer.identity() for member in self.members]
        return {
            "model": [entry["model"] for entry in entries],
            "posterior": f"{self.kind}-{self.basis_id}",
            "max_length": [entry["max_length"] for entry in entries],
            "dtype": [entry["dtype"] for entry in entries],
        }

    def encode(
        self,
        prompts: Sequence[str | Sequence[Message]],
        responses: Sequence[str | Sequence[Message]],
        *,
        strict: bool = False,
        names: Sequence[str] | None = None,
    ) -> MemberTexts:
        """See `prudent.posteriors.Scorer.encode`."""
        parts = self._each_way(lambda scorer: scorer.encode(prompts, responses, strict=strict, names=names))
        return MemberTexts(tuple(parts), self._which)

    def encode_pairs(self, rows: Any, *, strict: bool = False) -> MemberPairs:
        """See `prudent.posteriors.Scorer.encode_pairs`."""
        return MemberPairs(tuple(self._each_way(lambda scorer: scorer.encode_pairs(rows, strict=strict))), self._which)

    def predict(
        self,
        texts: MemberTexts,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
        with_factor: bool = False,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Prediction:
        """See `prudent.posteriors.Scorer.predict`; the members' rewards come along.

        A factor that is asked for is that of the covariance within members. Where members have no posterior of their
        own there is none, since the joint posterior is then the members themselves.

        Raises:
            UnsupportedError: a factor is asked for, and the posterior of a member has none.
        """
        uncertain = [member for member in self.members if member.scorer.has_variance]
        without = [member.name for member in uncertain if not member.scorer.posterior.factor_size]
        if with_factor and without:
            raise UnsupportedError(
                f"member {without[0]} has a posterior of its own that gives no factor; score without the factor, or "
                "fit that member another posterior"
            )
        count = _scaled(advance, len(texts), len(texts) * self.num_members)
        plain = self._plain_rewards(texts.of, tokens_per_batch, count)
        found: list[Prediction] = []
        for place, member in enumerate(self.members):
            parts = {key: center.parts[place] for key, center in (centers or {}).items()}
            if place in plain:
                one = plain_prediction(plain[place], group, reference_weight, parts)
            else:
                one = member.scorer.predict(
                    texts.of(place),
                    group=group,
                    reference_weight=reference_weight,
                    centers=parts,
                    with_factor=with_factor and member.scorer.has_variance,
                    tokens_per_batch=tokens_per_batch,
                    advance=count,
                )
            found.append(member.on_common_scale(one))
        members = torch.stack([one.mean for one in found], 1)
        deviations = members - torch.stack([one.reference_mean for one in found], 1)
        within = torch.stack([one.variance for one in found], 1).mean(1)
        return Prediction(
            mean=members.mean(1),
            variance=members.var(1) + within,
            noise=torch.stack([one.noise for one in found], 1).mean(1),
            reference_mean=(members - deviations).mean(1),
            centered_variance=deviations.var(1) + torch.stack([one.centered_variance for one in found], 1).mean(1),
            factor=self._stored_factor(found) if with_factor and uncertain else None,
            members=members,
            within_variance=within if uncertain else None,
        )

    def contrasts(
        self,
        pairs: MemberPairs,
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Contrasts:
        """See `prudent.posteriors.Scorer.contrasts`."""
        return mixture(self.member_contrasts(pairs, tokens_per_batch=tokens_per_batch, advance=advance))

    def member_contrasts(
        self,
        pairs: MemberPairs,
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> list[Contrasts]:
        """What each member says of P pairs, in logits.

        Args:
            pairs: from `encode_pairs`.
            tokens_per_batch: padded tokens of a batch.
            advance: called with the number of pairs done, P in all.

        Raises:
            PosteriorError: a reward is not finite; member and row are named.
        """
        step = _scaled(advance, len(pairs), len(pairs) * self.num_members)
        by_texts = _scaled(step, len(pairs), len(pairs.parts[0].encoded))
        plain = self._plain_rewards(lambda place: pairs.of(place).encoded, tokens_per_batch, by_texts)
        found = []
        for place, member in enumerate(self.members):
            own = pairs.of(place)
            try:
                if place in plain:
                    mean = plain[place][own.chosen].double() - plain[place][own.rejected].double()
                    own.require_finite(mean, torch.arange(len(own)), "reward")
                    one = Contrasts(mean, torch.zeros_like(mean), torch.zeros_like(mean))
                else:
                    one = member.scorer.contrasts(own, tokens_per_batch=tokens_per_batch, advance=step)
            except PosteriorError as error:
                raise PosteriorError(f"member {member.name}: {error}") from error
            square = member.scale**2
            found.append(Contrasts(member.scale * one.mean, square * one.variance, square * one.noise))
        return found

    def exact(self, texts: MemberTexts) -> tuple[Tensor, Tensor]:
        """See `prudent.posteriors.Scorer.exact`."""
        found = [member.scorer.exact(texts.of(place)) for place, member in enumerate(self.members)]
        own = list(zip(self.members, found, strict=True))
        means = torch.stack([member.scale * mean + member.offset for member, (mean, _) in own], 1)
        mean = means.mean(1)
        deviations = (means - mean.unsqueeze(1)) / (self.num_members - 1) ** 0.5
        within = [member.scale / self.num_members**0.5 * factor.to(means) for member, (_, factor) in own]
        return mean, torch.cat([deviations, *within], 1)

    def center(self, texts: MemberTexts) -> Center:
        """See `prudent.posteriors.Scorer.center`."""
        parts = tuple(member.scorer.center(texts.of(place)) for place, member in enumerate(self.members))
        means = [member.scale * part.mean + member.offset for member, part in zip(self.members, parts, strict=True)]
        return Center(sum(means) / self.num_members, torch.empty(0), parts)

    def _models(self) -> list[Any]:
        return [member.scorer.model for member in self.members]

    def _described(self, member: ScoredMember) -> dict[str, Any]:
        model = member.scorer.model
        # How it is read now, its dtype above all, is not what the ensemble is.
        head = model.head_values()[0].to(torch.bfloat16).view(torch.int16).numpy().tobytes()
        return {
            "scale": member.scale,
            "offset": member.offset,
            "model": model.fingerprint(),
            "head": hashlib.sha256(head).hexdigest()[:16],
            "posterior": f"{member.scorer.kind}-{member.scorer.basis_id}",
        }

    def _each_way(self, encode: Callable[[ModelScorer], _Read]) -> list[_Read]:
        parts = []
        for way in range(len(self._ways)):
            member = self.members[self._which.index(way)]
            try:
                parts.append(encode(member.scorer))
            except DataError as error:
                raise DataError(f"member {member.name}: {error}") from error
        return parts

    def _plain_rewards(
        self, encoded: Callable[[int], EncodedTexts], tokens_per_batch: int | None, advance: Callable[[int], None]
    ) -> dict[int, Tensor]:
        """Rewards `[N]` of the members without a posterior, together where they share a base."""
        together: dict[tuple[int, int], list[int]] = {}
        for place, member in enumerate(self.members):
            if not member.scorer.has_variance:
                key = (id(member.scorer.model.model), self._which[place])
                together.setdefault(key, []).append(place)
        found = {}
        for places in together.values():
            models = [self.members[place].scorer.model for place in places]

            def count(amount: int, times: int = len(places)) -> None:
                advance(amount * times)

            rewards = rewards_of_each(models, encoded(places[0]), tokens_per_batch=tokens_per_batch, advance=count)
            found.update({place: rewards[:, column] for column, place in enumerate(places)})
        return found

    def _stored_factor(self, found: Sequence[Prediction]) -> Tensor:
        """`[N, K]` factor of the covariance within members; K is all their columns, or 256 random sums of them."""
        parts = [one.factor for one in found if one.factor is not None]
        if sum(part.shape[1] for part in parts) <= STORED_COLUMNS:
            together: Tensor = torch.cat(parts, 1) / self.num_members**0.5
            return together
        narrow = [Projection(part.shape[1], STORED_COLUMNS, seed, part)(part) for seed, part in enumerate(parts)]
        total: Tensor = torch.stack(narrow).sum(0) / self.num_members**0.5
        return total


def mixture(found: Sequence[Contrasts]) -> Contrasts:
    """What members say of P pairs, by the law of total variance.

    Args:
        found: of each of M members, on the common scale.
    """
    means, within, noise = (
        torch.stack(part, 1) for part in zip(*((one.mean, one.variance, one.noise) for one in found), strict=True)
    )
    return Contrasts(means.mean(1), means.var(1) + within.mean(1), noise.mean(1))


def _scaled(advance: Callable[[int], None], units: int, steps: int) -> Callable[[int], None]:
    """Takes `steps` in all, in parts, and tells of `units` in all, in whole ones."""
    done = 0

    def count(amount: int) -> None:
        nonlocal done
        before, done = done * units // steps, done + amount
        advance(done * units // steps - before)

    return count
