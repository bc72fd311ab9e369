"""References of the experiments' pools: few of each prompt, the same every time, and averages over them."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("_references")


def test_references_are_a_few_of_each_prompt_and_the_same_beside_other_prompts(references: ModuleType) -> None:
    mask = references.reference_mask(["one", "two", "three"], [10, 3, 8], 4)
    first, second, third = mask.split([10, 3, 8])
    assert (int(first.sum()), int(second.sum()), int(third.sum())) == (4, 3, 4)
    assert torch.equal(references.reference_mask(["three"], [8], 4), third)


@pytest.mark.parametrize("shape", [(), (4,)])
def test_averages_are_those_of_the_references_of_the_own_prompt(references: ModuleType, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    group = torch.randint(10, 17, (200,), generator=generator)  # in any order, numbered from anywhere
    mask = torch.rand(200, generator=generator) < 0.3
    values = torch.randn(200, *shape, generator=generator).double()
    found = references.reference_means(values, group, mask)
    for prompt in group.unique():
        own = group == prompt
        torch.testing.assert_close(found[own], values[own & mask].mean(0).expand(int(own.sum()), *shape))
