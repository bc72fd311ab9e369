"""M heads on the features of one reward model: what they agree on is the reward, where they differ nobody knows."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from prudent.errors import PosteriorError
from prudent.metrics import fit_logit_temperature
from prudent.models import EncodedTexts, Pooling, RewardModel
from prudent.posteriors._heads_losses import HeadsKind, monotone_quantiles
from prudent.posteriors._heads_network import Layers, apply_heads
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._protocol import Center, Contrasts, Prediction, check_head, group_average

__all__ = ["Diversity", "HeadArchitecture", "HeadsPosterior", "averages_to_model_head"]

HeadArchitecture = Literal["linear", "mlp"]
"""A linear head as the model's own, or an MLP with two hidden layers of 128."""

Diversity = Literal["anchor", "prior_function"]
"""Each head is pulled to a draw from the prior of its own, or is trained on top of such a draw that stays as it is."""

_TEXTS_AT_ONCE = 4096
_PAIRS_AT_ONCE = 65536


@dataclass(frozen=True)
class HeadsPosterior:
    """M heads, whose rewards are draws: their average is the mean, their spread (ddof 1) the epistemic variance.

    A head reads `features - feature_mean`. Its output is a reward; for `mean_variance` there is also the noise of the
    text; for `quantile` 19 quantiles of its score, whose average is the reward and whose variance (ddof 0; 0.75 of the
    variance for a Gaussian, since the tails beyond 5 % are cut) the noise. The noise is averaged over heads and never
    enters a variance or factor.

    Attributes:
        kind: the objective, by the word with which `fit` makes it.
        architecture: of a head.
        layers: of each layer the weights `[M * S, out, in]` and biases `[M * S, out]`, float32.
        feature_mean: `[H]` float32 average of the features fitted on.
        num_summands: S, networks that a head is the sum of: 2 for an MLP over a prior function, else 1.
        score_std: standard deviation of the scores fitted on, the unit of the outputs for `quantile`; else 1.
        logit_scale: positive factor from scores to rewards; 1 but for `quantile`, where held-out pairs may choose it
            by `with_logit_scale_for`.
        pooling: what the features are; see `prudent.models.Pooling`.
        bootstrap: each head had prompts drawn with replacement.
        diversity: how the prior keeps heads apart.
        prior_precision: of the prior in standardised features; see `fit_heads`.
        seed: of all draws.
        num_data: pairs, for `quantile` responses, fitted on.
    """

    kind: HeadsKind
    architecture: HeadArchitecture
    layers: Layers
    feature_mean: Tensor
    num_summands: int
    score_std: float
    logit_scale: float
    pooling: Pooling
    bootstrap: bool
    diversity: Diversity
    prior_precision: float
    seed: int
    num_data: int

    @property
    def has_variance(self) -> bool:
        """True."""
        return True

    @property
    def factor_size(self) -> int:
        """0: the members are the joint posterior as it is."""
        return 0

    @property
    def num_members(self) -> int:
        """M."""
        return len(self.layers[0][0]) // self.num_summands

    @property
    def basis_id(self) -> str:
        """Names these heads."""
        digest = hashlib.sha256(f"{self.kind} {self.score_std!r} {self.logit_scale!r}".encode())
        for tensor in self._tensors().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def has_model_head(self) -> bool:
        """Whether the average head is linear, so that the model's own head can be, and was made, that average."""
        return averages_to_model_head(self.kind, self.architecture, self.pooling)

    @property
    def mean_head(self) -> tuple[Tensor, float]:
        """Weight `[H]` and bias of the average of linear heads, on the features as they are.

        Raises:
            PosteriorError: the average of these heads is not a linear head.
        """
        if self.architecture != "linear" or self.kind == "quantile":
            raise PosteriorError(f"the average of {self.architecture} {self.kind} heads is not a linear head")
        weight, bias = (values.double().mean(0)[0] for values in self.layers[0])
        return weight.float(), float(bias - weight @ self.feature_mean.double())

    def with_mean_head(self, weight: Tensor, bias: float) -> Self:
        """The same heads, all moved alike so that their average is a given one.

        Args:
            weight: `[H]` for the features as they are.
            bias: reward of a zero feature vector.
        """
        weights, biases = (values.double() for values in self.layers[0])
        weights[:, 0] += weight.double() - weights[:, 0].mean(0)
        biases[:, 0] += bias + weight.double() @ self.feature_mean.double() - biases[:, 0].mean()
        return replace(self, layers=((weights.float(), biases.float()),))

    def members_of(self, features: Tensor) -> Tensor:
        """`[N, M]` rewards of the members for `[N, H]` features.

        Example:
            >>> from prudent.posteriors import fit_heads
            >>> g = torch.Generator().manual_seed(0)
            >>> chosen, rejected = torch.randn(60, 3, generator=g) + 1, torch.randn(60, 3, generator=g)
            >>> fit_heads(chosen, rejected, num_members=5).members_of(chosen[:2]).shape
            torch.Size([2, 5])
        """
        return self.members_and_noise(features)[0]

    def members_and_noise(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`[N, M]` rewards of the members and `[N]` aleatoric variances for `[N, H]` features, float32."""
        parts = [self._some(part) for part in torch.split(features, _TEXTS_AT_ONCE)]
        return torch.cat([members for members, _ in parts]), torch.cat([noise for _, noise in parts])

    def quantiles_of(self, features: Tensor) -> Tensor:
        """`[N, M, Q]` quantiles of the score by each member, ascending, in its own units, for `[N, H]` features.

        Raises:
            PosteriorError: heads of another kind.
        """
        if self.kind != "quantile":
            raise PosteriorError(f"{self.kind} heads have no quantiles; fit quantile heads on absolute scores")
        return self.score_std * monotone_quantiles(self._outputs(features)).transpose(0, 1)

    def predict(
        self,
        model: RewardModel,
        encoded: EncodedTexts,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
        with_factor: bool = False,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Prediction:
        """See `prudent.posteriors.Posterior.predict`; there is no factor beside the members."""
        features = self._features(model, encoded, tokens_per_batch, advance)
        return self.predict_features(features, group=group, reference_weight=reference_weight, centers=centers)

    def predict_features(
        self,
        features: Tensor,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
    ) -> Prediction:
        """As `predict`, from `[N, H]` float32 features read before."""
        members, noise = self.members_and_noise(features)
        mean, deviations = self._mean_and_deviations(members)
        unique, local = torch.unique(group, return_inverse=True)
        joined = torch.cat([deviations, mean.unsqueeze(1)], dim=1)
        average = group_average(joined, local, reference_weight, len(unique))
        for position, key in enumerate(unique.tolist()):
            if centers is not None and key in centers:
                average[position, :-1] = centers[key].factor
                average[position, -1] = centers[key].mean
        return Prediction(
            mean=mean,
            variance=deviations.square().sum(1),
            noise=noise,
            reference_mean=average[local, -1],
            centered_variance=(deviations - average[local, :-1]).square().sum(1),
            factor=None,
            members=members,
        )

    def contrasts(
        self,
        model: RewardModel,
        pairs: PairTexts,
        *,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] = lambda amount: None,
    ) -> Contrasts:
        """See `prudent.posteriors.Posterior.contrasts`."""
        features, _ = pairs.features(model, self.pooling, tokens_per_batch, advance)
        contrasts = self.contrasts_of(features, pairs.chosen, pairs.rejected)
        pairs.require_finite(contrasts.mean + contrasts.variance, torch.arange(len(pairs)), "reward")
        return contrasts

    def contrasts_of(self, features: Tensor, chosen: Tensor, rejected: Tensor) -> Contrasts:
        """Differences of rewards of P pairs of texts.

        Args:
            features: `[n, H]` of the texts.
            chosen: `[P]` place of each pair's chosen text among them.
            rejected: `[P]` place of the rejected one.
        """
        members, noise = (values.double() for values in self.members_and_noise(features))
        means, variances = [], []
        parts = zip(torch.split(chosen, _PAIRS_AT_ONCE), torch.split(rejected, _PAIRS_AT_ONCE), strict=True)
        for first, second in parts:
            differences = members[first] - members[second]
            means.append(differences.mean(1))
            variances.append(differences.var(1))
        both = torch.where(chosen == rejected, 0.0, noise[chosen] + noise[rejected])
        return Contrasts(torch.cat(means), torch.cat(variances), both)

    def with_logit_scale_for(self, features: Tensor, chosen: Tensor, rejected: Tensor, label: Tensor) -> Self:
        """The same quantile heads with rewards in logits: scores times the factor under which pairs are most likely.

        The likelihood is that of the whole prediction, `E sigma(x)` with x normal about the mean with variance and
        noise: a factor that fits the mean alone has absorbed the noise, which would then count twice. One pair more,
        a standard deviation of score apart and without noise, of which the better wins three times out of four, keeps
        the factor finite where these pairs are best told by rewards without bound, or by none in particular.

        Args:
            features: `[n, H]` of the texts.
            chosen: `[P]` place of each pair's chosen text among them; pairs that the heads were not fitted on.
            rejected: `[P]` place of the rejected one.
            label: `[P]` probability that the chosen one is better.

        Raises:
            PosteriorError: heads of another kind, whose rewards are logits as they are; or the pairs are ranked no
                better than by chance, and no factor helps.

        Example:
            >>> from prudent.posteriors import fit_quantile_heads
            >>> features = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
            >>> heads = fit_quantile_heads(features, 10 * features[:, 0], num_members=2)
            >>> place = torch.arange(100)
            >>> label = torch.sigmoid(3 * (features[:100, 0] - features[100:, 0]))
            >>> round(heads.with_logit_scale_for(features, place, place + 100, label).logit_scale, 2)
            0.29
        """
        if self.kind != "quantile":
            raise PosteriorError(f"rewards of {self.kind} heads are in logits; only quantile heads need a scale")
        unit = replace(self, logit_scale=1 / self.score_std)
        found, label = unit.contrasts_of(features, chosen, rejected), label.double()
        # Where this slope of the likelihood at factor 0 is not positive, nothing is better than a coin.
        if float(((label - 0.5) * found.mean).sum()) <= 0:
            raise PosteriorError(
                f"the {len(label)} pairs give no scale from scores to logits: they are ranked no better than by "
                "chance; give more of them, or others"
            )
        temperature = fit_logit_temperature(
            torch.cat([found.mean, found.mean.new_ones(1)]),
            torch.cat([label, label.new_full((1,), 0.75)]),
            torch.cat([found.variance + found.noise, found.mean.new_zeros(1)]),
        )
        return replace(unit, logit_scale=unit.logit_scale / temperature)

    def exact(self, model: RewardModel, encoded: EncodedTexts) -> tuple[Tensor, Tensor]:
        """See `prudent.posteriors.Posterior.exact`."""
        features = self._features(model, encoded, None, lambda amount: None)
        return self._mean_and_deviations(self.members_of(features))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `prudent.posteriors.Posterior.state`."""
        entries = {
            "kind": self.kind,
            "architecture": self.architecture,
            "num_members": self.num_members,
            "ddof": 1,
            "num_summands": self.num_summands,
            "score_std": self.score_std,
            "logit_scale": self.logit_scale,
            "pooling": self.pooling,
            "bootstrap": self.bootstrap,
            "diversity": self.diversity,
            "prior_precision": self.prior_precision,
            "seed": self.seed,
            "num_data": self.num_data,
            "basis_id": self.basis_id,
        }
        return self._tensors(), entries

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], entries: dict[str, Any]) -> Self:
        """The posterior that `state` described."""
        depth = (len(tensors) - 1) // 2
        layers = tuple((tensors[f"weight_{layer}"], tensors[f"bias_{layer}"]) for layer in range(depth))
        names = [
            "kind",
            "architecture",
            "num_summands",
            "score_std",
            "logit_scale",
            "pooling",
            "bootstrap",
            "diversity",
            "prior_precision",
            "seed",
            "num_data",
        ]
        fields: dict[str, Any] = {name: entries[name] for name in names}
        return cls(layers=layers, feature_mean=tensors["feature_mean"], **fields)

    def check_model(self, model: RewardModel) -> None:
        """See `prudent.posteriors.Posterior.check_model`."""
        if len(self.feature_mean) != model.feature_size:
            raise PosteriorError(
                f"the posterior has {len(self.feature_mean)} features, the model {model.feature_size}; "
                "it was fitted on another base model"
            )
        if self.has_model_head:
            check_head(self.mean_head[0], model)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"feature_mean": self.feature_mean}
        for place, (weight, bias) in enumerate(self.layers):
            tensors |= {f"weight_{place}": weight, f"bias_{place}": bias}
        return tensors

    def _outputs(self, features: Tensor) -> Tensor:
        """`[M, N, D]`."""
        outputs = apply_heads(self.layers, features - self.feature_mean)
        if self.num_summands == 1:
            return outputs
        return outputs.reshape(self.num_members, self.num_summands, *outputs.shape[1:]).sum(1)

    def _some(self, features: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self._outputs(features)
        if self.kind == "quantile":
            quantiles = self.logit_scale * self.score_std * monotone_quantiles(outputs)
            return quantiles.mean(-1).T, quantiles.var(-1, correction=0).mean(0)
        if self.kind == "mean_variance":
            return outputs[..., 0].T, softplus(outputs[..., 1]).mean(0)
        return outputs[..., 0].T, features.new_zeros(len(features))

    def _mean_and_deviations(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """`[N]`, and `[N, M]` whose inner products are covariances with ddof 1."""
        mean = members.mean(1)
        return mean, (members - mean.unsqueeze(1)) / (self.num_members - 1) ** 0.5

    def _features(
        self,
        model: RewardModel,
        encoded: EncodedTexts,
        tokens_per_batch: int | None,
        advance: Callable[[int], None],
    ) -> Tensor:
        return model.features(encoded, pooling=self.pooling, tokens_per_batch=tokens_per_batch, advance=advance)[0]


def averages_to_model_head(kind: HeadsKind, architecture: HeadArchitecture, pooling: Pooling) -> bool:
    """Whether the average of such heads is a linear head on what the model's own head reads."""
    return architecture == "linear" and kind != "quantile" and pooling == "head"
