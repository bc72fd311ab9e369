"""An independent reference for the Laplace posterior over LoRA weights: dense, one text at a time, by autograd alone.

It shares no code with prudent: it finds the parameters by PEFT's names, runs the classifier on single texts without
padding, differentiates its logit by `torch.autograd.grad`, and writes every matrix out. Use it with `model.double()`.
A parameter vector is the concatenation of the blocks, each flattened from `[out, in]`, a bias being the last column.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid


@dataclass(frozen=True)
class Block:
    """One weight matrix of the posterior."""

    name: str
    module: nn.Linear
    bias: bool
    is_head: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.module.out_features, self.module.in_features + self.bias

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def value(self) -> Tensor:
        weight = self.module.weight.detach()
        return torch.cat([weight, self.module.bias.detach().unsqueeze(1)], dim=1) if self.bias else weight


@dataclass(frozen=True)
class Terms:
    """What one text does to one linear layer: `inputs [T, in]` of its tokens, `gradients [T, out]` of its reward."""

    inputs: Tensor
    gradients: Tensor


def parameter_blocks(model: nn.Module) -> list[Block]:
    """Every lora_A and lora_B, the head's weight, and other linear layers trained in full, by PEFT's names."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = [module for name, module in linear if module.out_features == 1 and "original_module" not in name][-1]
    blocks = []
    for name, module in linear:
        parts = name.split(".")
        if "original_module" in parts:
            continue
        if module is head:
            blocks.append(Block(name, module, bias=False, is_head=True))
        elif {"lora_A", "lora_B", "modules_to_save"} & set(parts):
            blocks.append(Block(name, module, bias=module.bias is not None, is_head=False))
    return blocks


def slices(blocks: Sequence[Block]) -> list[slice]:
    """Where each block lies in the parameter vector."""
    found, start = [], 0
    for block in blocks:
        found.append(slice(start, start + block.size))
        start += block.size
    return found


def text_inputs(encoded: Any, row: int) -> dict[str, Tensor]:
    """One text as it is, without padding."""
    ids = torch.tensor(encoded.input_ids[row]).reshape(1, -1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if encoded.token_type_ids is not None:
        inputs["token_type_ids"] = torch.tensor(encoded.token_type_ids[row]).reshape(1, -1)
    return inputs


def text_reward(model: nn.Module, encoded: Any, row: int) -> Tensor:
    """The logit that plain Transformers gives to one text."""
    logits: Tensor = model(**text_inputs(encoded, row)).logits
    return logits[0, 0]


def _parameters(blocks: Sequence[Block]) -> list[Tensor]:
    return [
        tensor for block in blocks for tensor in (block.module.weight, *([block.module.bias] if block.bias else []))
    ]


def gradients(model: nn.Module, blocks: Sequence[Block], encoded: Any) -> tuple[Tensor, Tensor]:
    """Rewards `[N]` and their derivatives `[N, P]`, text by text."""
    parameters = _parameters(blocks)
    rewards, rows = [], []
    with _recording(parameters):
        for row in range(len(encoded)):
            reward = text_reward(model, encoded, row)
            found = iter(torch.autograd.grad(reward, parameters))
            parts = []
            for block in blocks:
                weight = next(found)
                whole = torch.cat([weight, next(found).unsqueeze(1)], dim=1) if block.bias else weight
                parts.append(whole.flatten())
            rewards.append(reward.detach())
            rows.append(torch.cat(parts))
    return torch.stack(rewards), torch.stack(rows)


@contextmanager
def _recording(parameters: Sequence[Tensor]) -> Iterator[None]:
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    yield
    for parameter, flag in zip(parameters, before, strict=True):
        parameter.requires_grad_(flag)


def token_terms(model: nn.Module, blocks: Sequence[Block], encoded: Any) -> list[list[Terms]]:
    """For every block, what each text brings: the layer's inputs (with a 1 where a bias counts) and output gradients.

    A decoder's head stands over every token, but the reward is read at the last: it has one term a text.
    """
    found: list[list[Terms]] = [[] for _ in blocks]
    with _recording(_parameters(blocks)):
        for row in range(len(encoded)):
            seen: dict[int, tuple[Tensor, Tensor]] = {}
            hooks = [block.module.register_forward_hook(_keep(place, seen)) for place, block in enumerate(blocks)]
            reward = text_reward(model, encoded, row)
            for hook in hooks:
                hook.remove()
            outputs = [seen[place][1] for place in range(len(blocks))]
            for place, gradient in enumerate(torch.autograd.grad(reward, outputs)):
                inputs = seen[place][0].flatten(0, -2)
                gradient = gradient.flatten(0, -2)
                if blocks[place].is_head:
                    inputs, gradient = inputs[-1:], gradient[-1:]
                if blocks[place].bias:
                    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)
                found[place].append(Terms(inputs, gradient))
    return found


def _keep(place: int, into: dict[int, tuple[Tensor, Tensor]]) -> Callable[..., None]:
    def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        into[place] = (arguments[0].detach(), output)

    return hook


@dataclass(frozen=True)
class Pairs:
    """M pairs among N texts: positions of their sides, margins, labels, and the centring loss's coefficient."""

    chosen: Tensor
    rejected: Tensor
    margin: Tensor
    label: Tensor
    centering: float = 0.0

    def weight(self, rewards: Tensor) -> Tensor:
        """`[M]` p (1 - p) of each pair."""
        chance = torch.sigmoid(rewards[self.chosen] - rewards[self.rejected] - self.margin)
        return chance * (1 - chance)

    def log_likelihood(self, rewards: Tensor) -> float:
        logit = rewards[self.chosen] - rewards[self.rejected] - self.margin
        return float((self.label * logsigmoid(logit) + (1 - self.label) * logsigmoid(-logit)).sum())

    def appearances(self, num_texts: int) -> Tensor:
        """`[N]` in how many pairs each text stands."""
        return torch.bincount(torch.cat([self.chosen, self.rejected]), minlength=num_texts)


def pair_ggn(jacobian: Tensor, rewards: Tensor, pairs: Pairs) -> Tensor:
    """`[P, P]` sum of p (1 - p) d d^T and of 2 c s s^T, an outer product at a time."""
    size = jacobian.shape[1]
    total = jacobian.new_zeros(size, size)
    for chosen, rejected, weight in zip(pairs.chosen, pairs.rejected, pairs.weight(rewards), strict=True):
        difference = jacobian[chosen] - jacobian[rejected]
        total += weight * torch.outer(difference, difference)
        if pairs.centering:
            common = jacobian[chosen] + jacobian[rejected]
            total += 2 * pairs.centering * torch.outer(common, common)
    return total


def kronecker_factors(terms: Sequence[Terms], rewards: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, float]:
    """K-FAC "expand" of one block over the tokens of both sides of every pair.

    Returns:
        Input factor `[in, in]` sum a a^T, output factor `[out, out]` sum w g g^T with w = p (1 - p) + 2 c, and the
        number of terms summed.
    """
    inputs = terms[0].inputs.new_zeros(terms[0].inputs.shape[1], terms[0].inputs.shape[1])
    gradient = terms[0].gradients.new_zeros(terms[0].gradients.shape[1], terms[0].gradients.shape[1])
    count = 0
    weights = pairs.weight(rewards) + 2 * pairs.centering
    for side in (pairs.chosen, pairs.rejected):
        for text, weight in zip(side.tolist(), weights, strict=True):
            inputs += terms[text].inputs.T @ terms[text].inputs
            gradient += weight * terms[text].gradients.T @ terms[text].gradients
            count += len(terms[text].inputs)
    return inputs, gradient, float(count)


def difference_factors(matrices: Tensor, rewards: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Kronecker factors `[in, in]` and `[out, out]` of the pair differences of one block.

    Args:
        matrices: `[N, out, in]` derivatives of each reward by the block's weight.
        rewards: `[N]`.
        pairs: which texts are compared.
    """
    inputs = matrices.new_zeros(matrices.shape[2], matrices.shape[2])
    outputs = matrices.new_zeros(matrices.shape[1], matrices.shape[1])
    for chosen, rejected, weight in zip(pairs.chosen, pairs.rejected, pairs.weight(rewards), strict=True):
        sides = [(weight, matrices[chosen] - matrices[rejected])]
        sides.append((2 * pairs.centering, matrices[chosen] + matrices[rejected]))
        for scale, matrix in sides:
            inputs += scale * matrix.T @ matrix
            outputs += scale * matrix @ matrix.T
    return inputs, outputs


def kron_block(inputs: Tensor, outputs: Tensor, count: float, max_rank: int | None = None) -> Tensor:
    """`[P_b, P_b]` Kronecker product of two factors over a number, in the order of `[out, in]`.

    The longer factor's eigenvalues beyond the `max_rank` largest are replaced by their average.
    """
    if max_rank is not None and len(inputs) >= len(outputs):
        inputs = _flattened(inputs, max_rank)
    elif max_rank is not None:
        outputs = _flattened(outputs, max_rank)
    return torch.kron(outputs, inputs) / count


def _flattened(factor: Tensor, max_rank: int) -> Tensor:
    values, vectors = torch.linalg.eigh(factor)
    cut = len(values) - max_rank
    if cut > 0:
        values = torch.cat([values[:cut].mean().expand(cut), values[cut:]])
    return vectors @ torch.diag(values) @ vectors.T


def ekfac_block(block_ggn: Tensor, inputs: Tensor, outputs: Tensor, max_rank: int | None = None) -> Tensor:
    """The exact block's diagonal in the eigenbasis of two Kronecker factors.

    Of the longer factor's directions those beyond the `max_rank` of largest eigenvalue share their average diagonal,
    one for each direction of the shorter factor.
    """
    basis = torch.kron(torch.linalg.eigh(outputs).eigenvectors, torch.linalg.eigh(inputs).eigenvectors)
    diagonal = ((block_ggn @ basis) * basis).sum(0).reshape(len(outputs), len(inputs)).clone()
    longer = diagonal if len(inputs) >= len(outputs) else diagonal.T
    cut = 0 if max_rank is None else longer.shape[1] - max_rank
    if cut > 0:
        longer[:, :cut] = longer[:, :cut].mean(1, keepdim=True)
    return (basis * diagonal.flatten()) @ basis.T


@dataclass(frozen=True)
class Dense:
    """A Gaussian posterior written out: `precision [P, P]` = curvature + prior, and what follows."""

    curvature: Tensor
    prior: Tensor
    theta: Tensor
    log_likelihood: float
    temperature: float = 1.0

    def precision(self) -> Tensor:
        return self.curvature + torch.diag(self.prior)

    def covariance(self) -> Tensor:
        return self.temperature * torch.linalg.inv(self.precision())

    def log_determinant(self) -> float:
        """Of I + prior^-1/2 curvature prior^-1/2."""
        scale = self.prior.rsqrt()
        matrix = torch.eye(len(scale), dtype=scale.dtype) + scale.unsqueeze(1) * self.curvature * scale
        return float(torch.linalg.slogdet(matrix).logabsdet)

    def log_marginal_likelihood(self) -> float:
        penalty = 0.5 * float((self.prior * self.theta.square()).sum())
        return self.log_likelihood - penalty - 0.5 * self.log_determinant()


def named_gradients(blocks: Sequence[Block], jacobian: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Each block's derivatives `[N, out, in]` by its name."""
    for block, place in zip(blocks, slices(blocks), strict=True):
        yield block.name, jacobian[:, place].reshape(len(jacobian), *block.shape)


class Truth:
    """All that is needed of one model and its pairs; every side of every pair is a text of its own.

    Args:
        model: a `RewardModel`, of which the classifier and the encoding of texts are used.
        rows: pairs as `fit` takes them, prompts and responses as strings.
        centering: coefficient of the centring loss.
        order: layers in the order in which parameters are to stand; by default the model's.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[dict[str, Any]],
        *,
        centering: float = 0.0,
        order: Sequence[nn.Module] | None = None,
    ) -> None:
        self.model = model
        self.blocks = parameter_blocks(model.model)
        if order is not None:
            known = {id(block.module): block for block in self.blocks}
            assert known.keys() == {id(module) for module in order}
            self.blocks = [known[id(module)] for module in order]
        self.slices = slices(self.blocks)
        texts = [row[side] for side in ("chosen", "rejected") for row in rows]
        self.encoded = model.encode([row["prompt"] for row in rows] * 2, texts)
        self.rewards, self.jacobian = gradients(model.model, self.blocks, self.encoded)
        margin = torch.tensor([row.get("margin", 0.0) for row in rows], dtype=torch.float64)
        label = torch.tensor([row.get("p_chosen", 1.0) for row in rows], dtype=torch.float64)
        place = torch.arange(len(rows))
        self.pairs = Pairs(place, place + len(rows), margin, label, centering)
        self.theta = torch.cat([block.value().flatten() for block in self.blocks]).double()
        self.ggn = pair_ggn(self.jacobian, self.rewards, self.pairs)

    @property
    def gradient_mean(self) -> Tensor:
        """`[P]` average over both sides of all pairs."""
        return self.jacobian.mean(0)

    def gradients(self, prompts: Sequence[str], responses: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Rewards `[N]` and derivatives `[N, P]` of other texts."""
        return gradients(self.model.model, self.blocks, self.model.encode(prompts, responses))

    def curvature(self, structure: str, max_rank: int | None = None) -> Tensor:
        """`[P, P]` as a structure has it."""
        if structure == "full":
            return self.ggn
        if structure == "diag":
            return torch.diag(self.ggn.diagonal())
        parts = []
        terms = token_terms(self.model.model, self.blocks, self.encoded) if structure == "kron" else []
        for number, (block, place) in enumerate(zip(self.blocks, self.slices, strict=True)):
            if structure == "kron":
                parts.append(kron_block(*kronecker_factors(terms[number], self.rewards, self.pairs), max_rank))
            else:
                matrices = self.jacobian[:, place].reshape(-1, *block.shape)
                factors = difference_factors(matrices, self.rewards, self.pairs)
                parts.append(ekfac_block(self.ggn[place, place], *factors, max_rank))
        return torch.block_diag(*parts)

    def dense(
        self, structure: str, prior_precision: float | Tensor, max_rank: int | None = None, temperature: float = 1.0
    ) -> Dense:
        """The posterior; `prior_precision` is one for all weights or one a block."""
        prior = torch.as_tensor(prior_precision, dtype=torch.float64).expand(len(self.blocks))
        each = torch.cat([value.expand(block.size) for value, block in zip(prior, self.blocks, strict=True)])
        likelihood = self.pairs.log_likelihood(self.rewards)
        common = self.rewards[self.pairs.chosen] + self.rewards[self.pairs.rejected]
        likelihood -= self.pairs.centering * float(common.square().sum())
        return Dense(self.curvature(structure, max_rank), each, self.theta, likelihood, temperature)
