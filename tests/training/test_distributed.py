import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from prudent.training import TrainingConfig, train


@pytest.mark.slow
def test_two_processes_end_at_the_weights_of_one(
    tiny_models: Callable[..., Path], pairs: list[dict[str, Any]], tmp_path: Path
) -> None:
    base = tiny_models("llama", head=False)
    one = TrainingConfig(num_train_epochs=2, learning_rate=1e-2, per_device_train_batch_size=4, use_cpu=True)
    two = {**asdict(one), "per_device_train_batch_size": 2}
    train(base, pairs, tmp_path / "one", config=one, progress=False)
    worker = Path(__file__).parent / "two_processes.py"
    arguments = [str(base), json.dumps(pairs), str(tmp_path / "two"), json.dumps(two)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(worker), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    expected = load_file(tmp_path / "one" / "adapter_model.safetensors")
    found = load_file(tmp_path / "two" / "adapter_model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4)
