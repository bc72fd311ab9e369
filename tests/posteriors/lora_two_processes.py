"""Run by test_lora_distributed under torchrun, once a process."""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    from prudent.posteriors import fit

    model, data, output, structures = sys.argv[1:]
    for structure in structures.split(","):
        result = fit(
            model, json.loads(data), f"{output}/{structure}", posterior=structure, tokens_per_batch=80, progress=False
        )
        # Every process holds the posterior of all pairs, and says so in a file of its own: lines printed by two mix.
        place = Path(output) / f"{structure}-{os.environ['RANK']}.txt"
        place.write_text(result.posterior.basis_id)
