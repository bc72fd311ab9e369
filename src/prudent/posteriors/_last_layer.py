"""Laplace posterior over the last layer: a Bayesian logistic head on features of the reward model.

The full covariance on feature *differences* keeps the pair structure exactly (a direction that shifts all responses to
a prompt is known to be unidentified), costs one Cholesky factorisation, and adds one matrix product to scoring.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from prudent.errors import PosteriorError
from prudent.models import EncodedTexts, Pooling, RewardModel
from prudent.posteriors._logistic import LogisticPosterior, fit_logistic, maximize_evidence
from prudent.posteriors._pair_texts import PairTexts
from prudent.posteriors._protocol import Center, Contrasts, Prediction, check_head, group_average

__all__ = ["HeadChoice", "LastLayerPosterior", "check_pairs", "feature_scale"]

HeadChoice = Literal["refit", "kept"]
"""`refit` moves the head to the posterior mode by Newton; `kept` takes the curvature at the head as it was trained."""

_MAX_FACTOR_COLUMNS = 256


@dataclass(frozen=True)
class LastLayerPosterior:
    """`r = features . weight + bias` with a Gaussian posterior over the weight.

    Variances are those of `(features - feature_mean) . weight`: the average feature vector moves all rewards alike and
    pairs say nothing about that, so it is taken out before the quadratic form.

    Attributes:
        weight: `[H]` float32, posterior mean in the units of the raw features.
        bias: reward of a zero feature vector.
        feature_mean: `[H]` float32 average of the features fitted on.
        covariance_factor: `[H, H]` float32 `F` with posterior covariance `F F^T`, in the units of the raw features.
        pooling: what the features are; see `prudent.models.Pooling`.
        head: whether the head was refitted to the mode or kept.
        standardized: whether the prior is isotropic in standardised features.
        prior_precision: of the zero-centred Gaussian prior.
        posterior_temperature: factor on the posterior covariance; 1 is Bayes.
        log_likelihood: of the pairs fitted on, nats.
        log_marginal_likelihood: Laplace evidence of those pairs, nats.
        num_pairs: pairs fitted on.
    """

    weight: Tensor
    bias: float
    feature_mean: Tensor
    covariance_factor: Tensor
    pooling: Pooling
    head: HeadChoice
    standardized: bool
    prior_precision: float
    posterior_temperature: float
    log_likelihood: float
    log_marginal_likelihood: float
    num_pairs: int

    @classmethod
    def fit(
        cls,
        chosen: Tensor,
        rejected: Tensor,
        *,
        label: Tensor | None = None,
        margin: Tensor | None = None,
        pooling: Pooling = "head",
        head: HeadChoice = "refit",
        head_weight: Tensor | None = None,
        head_bias: float | None = None,
        standardize: bool = True,
        prior_precision: float | None = None,
        posterior_temperature: float = 1.0,
    ) -> Self:
        """Fit to the features of M preference pairs.

        Args:
            chosen: `[M, H]` features of the chosen responses.
            rejected: `[M, H]` features of the rejected responses.
            label: `[M]` probability that chosen is better, in [0, 1]; ones by default.
            margin: `[M]` reward margins; zeros by default.
            pooling: recorded with the posterior.
            head: `refit` by Newton to the mode, or `kept` at `head_weight`.
            head_weight: `[H]` the trained head, needed where it is kept.
            head_bias: the trained head's bias, or None where the architecture has none.
            standardize: put the isotropic prior on features scaled to unit standard deviation.
            prior_precision: fixed, or None to maximise the evidence.
            posterior_temperature: positive factor on the covariance.

        Raises:
            PosteriorError: fewer than two pairs, features that are not finite, or features equal in every pair.

        Example:
            >>> g = torch.Generator().manual_seed(0)
            >>> chosen, rejected = torch.randn(50, 3, generator=g) + 1, torch.randn(50, 3, generator=g)
            >>> LastLayerPosterior.fit(chosen, rejected).weight.shape
            torch.Size([3])
        """
        check_pairs(chosen, rejected)
        if posterior_temperature <= 0:
            raise ValueError(f"posterior_temperature is {posterior_temperature}; it must be positive")
        features = torch.cat([chosen, rejected]).double()
        mean = features.mean(0)
        scale = feature_scale(features) if standardize else torch.ones_like(mean)
        differences = (chosen.double() - rejected.double()) / scale
        start = None
        if head == "kept":
            if head_weight is None:
                raise ValueError("keeping the head needs head_weight")
            if pooling == "mean":
                raise PosteriorError("the head was trained on other features than mean-pooled ones; let it be refitted")
            start = head_weight.double() * scale
        elif head not in get_args(HeadChoice):
            raise ValueError(f"head is {head!r}; one of {', '.join(get_args(HeadChoice))}")
        options: dict[str, Any] = {"label": label, "margin": margin, "start": start, "newton": head == "refit"}
        if prior_precision is None:
            fitted: LogisticPosterior = maximize_evidence(differences, **options)
        else:
            fitted = fit_logistic(differences, prior_precision, **options)
        weight = fitted.weight / scale
        factor = fitted.covariance_factor / scale.unsqueeze(1) * posterior_temperature**0.5
        bias = 0.0 if head_bias is None else head_bias
        if head == "refit" and head_bias is not None:
            bias = -float(weight @ mean)  # rewards are centred on the data fitted on
        return cls(
            weight=weight.float(),
            bias=bias,
            feature_mean=mean.float(),
            covariance_factor=factor.float(),
            pooling=pooling,
            head=head,
            standardized=standardize,
            prior_precision=fitted.prior_precision,
            posterior_temperature=posterior_temperature,
            log_likelihood=fitted.log_likelihood,
            log_marginal_likelihood=fitted.log_marginal_likelihood,
            num_pairs=len(chosen),
        )

    @property
    def kind(self) -> str:
        """`last_layer`."""
        return "last_layer"

    @property
    def has_variance(self) -> bool:
        """True."""
        return True

    @property
    def factor_size(self) -> int:
        """`min(256, H)`."""
        return min(_MAX_FACTOR_COLUMNS, len(self.weight))

    @property
    def num_members(self) -> int:
        """Zero."""
        return 0

    @property
    def basis_id(self) -> str:
        """Names this covariance and its projection."""
        return hashlib.sha256(self.covariance_factor.numpy().tobytes() + b"qr0").hexdigest()[:16]

    def exact_factor(self, features: Tensor) -> Tensor:
        """`[N, H]` rows whose inner products are the exact covariances of the rewards."""
        return (features - self.feature_mean) @ self.covariance_factor

    def stored_factor(self, exact: Tensor) -> Tensor:
        """`[N, K]` rows for storage: the exact ones up to 256 columns, else projected on a random orthonormal basis."""
        if self.factor_size == exact.shape[1]:
            return exact
        generator = torch.Generator().manual_seed(0)
        normal = torch.randn(exact.shape[1], self.factor_size, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(normal).Q * (exact.shape[1] / self.factor_size) ** 0.5
        projected: Tensor = exact @ basis.to(exact)
        return projected

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
        """See `prudent.posteriors.Posterior.predict`."""
        features = self._features(model, encoded, tokens_per_batch, advance)
        return self.predict_features(
            features, group=group, reference_weight=reference_weight, centers=centers, with_factor=with_factor
        )

    def predict_features(
        self,
        features: Tensor,
        *,
        group: Tensor,
        reference_weight: Tensor,
        centers: Mapping[int, Center] | None = None,
        with_factor: bool = False,
    ) -> Prediction:
        """As `predict`, from `[N, H]` float32 features read before."""
        mean = features @ self.weight + self.bias
        exact = self.exact_factor(features)
        unique, local = torch.unique(group, return_inverse=True)
        joined = torch.cat([exact, mean.unsqueeze(1)], dim=1)
        average = group_average(joined, local, reference_weight, len(unique))
        for position, key in enumerate(unique.tolist()):
            if centers is not None and key in centers:
                average[position, :-1] = centers[key].factor
                average[position, -1] = centers[key].mean
        return Prediction(
            mean=mean,
            variance=exact.square().sum(1),
            noise=torch.zeros_like(mean),
            reference_mean=average[local, -1],
            centered_variance=(exact - average[local, :-1]).square().sum(1),
            factor=self.stored_factor(exact) if with_factor else None,
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
        differences, _ = pairs.contrasts_of_features(model, self.pooling, tokens_per_batch, advance)
        mean, variance = differences @ self.weight, (differences @ self.covariance_factor).square().sum(1)
        return Contrasts(mean.double(), variance.double(), torch.zeros_like(mean, dtype=torch.float64))

    def exact(self, model: RewardModel, encoded: EncodedTexts) -> tuple[Tensor, Tensor]:
        """See `prudent.posteriors.Posterior.exact`."""
        features = self._features(model, encoded, None, lambda amount: None)
        return features @ self.weight + self.bias, self.exact_factor(features)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """See `prudent.posteriors.Posterior.state`."""
        tensors = {
            "weight": self.weight,
            "feature_mean": self.feature_mean,
            "covariance_factor": self.covariance_factor,
        }
        entries = {
            "kind": self.kind,
            "structure": "full",
            "bias": self.bias,
            "pooling": self.pooling,
            "head": self.head,
            "standardized": self.standardized,
            "prior_precision": self.prior_precision,
            "posterior_temperature": self.posterior_temperature,
            "log_likelihood": self.log_likelihood,
            "log_marginal_likelihood": self.log_marginal_likelihood,
            "num_pairs": self.num_pairs,
            "basis_id": self.basis_id,
        }
        return tensors, entries

    @classmethod
    def from_state(cls, tensors: dict[str, Tensor], entries: dict[str, Any]) -> Self:
        """The posterior that `state` described."""
        names = [
            "bias",
            "pooling",
            "head",
            "standardized",
            "prior_precision",
            "posterior_temperature",
            "log_likelihood",
            "log_marginal_likelihood",
            "num_pairs",
        ]
        fields: dict[str, Any] = {**{name: entries[name] for name in names}, **tensors}
        return cls(**fields)

    def check_model(self, model: RewardModel) -> None:
        """See `prudent.posteriors.Posterior.check_model`."""
        if len(self.weight) != model.feature_size:
            raise PosteriorError(
                f"the posterior has {len(self.weight)} features, the model {model.feature_size}; "
                "it was fitted on another base model"
            )
        if self.pooling == "head":
            check_head(self.weight, model)

    def _features(
        self,
        model: RewardModel,
        encoded: EncodedTexts,
        tokens_per_batch: int | None,
        advance: Callable[[int], None],
    ) -> Tensor:
        return model.features(encoded, pooling=self.pooling, tokens_per_batch=tokens_per_batch, advance=advance)[0]


def check_pairs(chosen: Tensor, rejected: Tensor) -> None:
    """Make sure that features `[P, H]` of pairs can be fitted to.

    Raises:
        PosteriorError: fewer than two pairs, features that are not finite, or features equal in every pair.
    """
    if chosen.shape != rejected.shape or chosen.dim() != 2:
        raise ValueError(f"chosen is {tuple(chosen.shape)} and rejected {tuple(rejected.shape)}; both must be [M, H]")
    if len(chosen) < 2:
        raise PosteriorError(f"a posterior needs at least two preference pairs, there are {len(chosen)}")
    finite = torch.isfinite(chosen).all(1) & torch.isfinite(rejected).all(1)
    if not bool(finite.all()):
        places = torch.nonzero(~finite).flatten()[:5].tolist()
        raise PosteriorError(
            f"the features of {int((~finite).sum())} pairs are not finite (those at places {places}, from 0, first); "
            "the model overflows there, load it in float32 or leave those pairs out"
        )
    if bool((chosen == rejected).all()):
        raise PosteriorError(
            "chosen and rejected have the same features in every pair; the model does not tell them apart"
        )


def feature_scale(features: Tensor) -> Tensor:
    """Standard deviation of each feature; 1 for one that is constant up to rounding, which tells nothing."""
    scale = features.std(0, correction=0)
    size = features.abs().amax(0)
    return torch.where(scale > 1e-6 * size.clamp_min(float(np.finfo(np.float32).tiny)), scale, torch.ones_like(scale))
