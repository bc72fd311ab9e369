"""Run by test_distributed under torchrun, once a process."""

import json
import sys

if __name__ == "__main__":
    from prudent.training import TrainingConfig, train

    base, data, output, options = sys.argv[1:]
    train(base, json.loads(data), output, config=TrainingConfig(**json.loads(options)), progress=False)
