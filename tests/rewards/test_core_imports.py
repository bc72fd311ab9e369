import subprocess
import sys

BLOCKED = (
    "transformers",
    "peft",
    "datasets",
    "accelerate",
    "typer",
    "rich",
    "plotly",
    "matplotlib",
    "pyarrow",
    "scipy",
)

PROGRAM = f"""
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(name + " is blocked")


sys.meta_path.insert(0, Blocker())
import torch
from prudent.metrics import pair_metrics
from prudent.rewards import GaussianRewards
from prudent.selection import best_of_n, best_of_n_curve
from prudent.utility import LcbStd

rewards = GaussianRewards(torch.tensor([0.0, 1.0, 2.0]), torch.ones(3), factor=torch.eye(3))
utility = LcbStd()(rewards)
assert best_of_n(utility, rewards.group).index.tolist() == [2]
assert best_of_n_curve(utility, rewards.mean, rewards.group, [1, 3]).shape == (1, 2)
pair_metrics(*rewards.contrast(torch.tensor([2]), torch.tensor([0])))
loaded = set({BLOCKED!r}) & set(sys.modules)
assert not loaded, loaded
"""


def test_the_core_needs_torch_and_numpy_alone() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
