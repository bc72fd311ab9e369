"""Processes share the pairs and end at one posterior."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prudent.models import RewardModel
from prudent.posteriors import fit, load_posterior

STRUCTURES = ("kron", "ekfac", "diag", "full")


@pytest.mark.slow
def test_two_processes_fit_the_posterior_of_one(lora_folders, lora_pairs, lora_texts, tmp_path):
    import json

    folder = lora_folders("llama")
    worker = Path(__file__).parent / "lora_two_processes.py"
    arguments = [str(folder), json.dumps(lora_pairs), str(tmp_path), ",".join(STRUCTURES)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(worker), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    model = RewardModel.from_pretrained(folder)
    encoded = model.encode(*lora_texts)
    options = {"group": torch.zeros(12), "reference_weight": torch.ones(12)}
    for structure in STRUCTURES:
        one = fit(folder, lora_pairs, posterior=structure, progress=False).posterior
        two = load_posterior(tmp_path / structure, RewardModel.from_pretrained(tmp_path / structure))
        assert [(tmp_path / f"{structure}-{rank}.txt").read_text() for rank in (0, 1)] == [two.basis_id] * 2
        assert two.num_pairs == len(lora_pairs)
        assert two.log_likelihood == pytest.approx(one.log_likelihood, rel=1e-6)
        assert two.log_marginal_likelihood == pytest.approx(one.log_marginal_likelihood, rel=1e-4)
        torch.testing.assert_close(two.gradient_mean, one.gradient_mean, rtol=1e-4, atol=1e-6)
        expected, found = (posterior.predict(model, encoded, **options) for posterior in (one, two))
        torch.testing.assert_close(found.variance, expected.variance, rtol=5e-3, atol=0)
        scale = float(expected.centered_variance.max())
        torch.testing.assert_close(found.centered_variance, expected.centered_variance, rtol=5e-3, atol=1e-3 * scale)
