"""Run by test_lora_distributed under torchrun, once a process."""

import json
import sys

if __name__ == "__main__":
    from prudent.posteriors import fit

    model, data, output, structures = sys.argv[1:]
    for structure in structures.split(","):
        result = fit(
            model, json.loads(data), f"{output}/{structure}", posterior=structure, tokens_per_batch=80, progress=False
        )
        # every process holds the posterior of all pairs
        print(structure, result.posterior.basis_id, flush=True)
