"""Peak memory of scoring 20,000 and 100,000 responses that stream from a file: it must not grow with their number.

python benchmarks/memory.py --model runs/demo/model
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from prudent.scoring import _score, score

WORDS = ["tea", "walk", "museum", "river", "city", "plan", "day", "visit", "old", "market", "bridge", "garden"]
PER_PROMPT = 50


def measure(model: str, count: int) -> int:
    """Peak resident memory in MiB of scoring `count` responses, in this process."""
    _score._STREAMED_BYTES = 0
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pools.jsonl"
        with data.open("w") as stream:
            for prompt in range(count // PER_PROMPT):
                responses = [" ".join([*draw.choices(WORDS, k=60), str(index)]) for index in range(PER_PROMPT)]
                stream.write(json.dumps({"prompt": f"plan {prompt}", "responses": responses}) + "\n")
        summary = score(model, data, Path(folder) / "scored", max_length=64, factor=True, progress=False)
        assert summary.num_responses == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a small reward model with a posterior")
    parser.add_argument("--count", type=int, help="measure this many in this process and print the peak alone")
    options = parser.parse_args()
    if options.count:
        print(measure(options.model, options.count))
        return
    for count in (20_000, 100_000):
        command = [sys.executable, __file__, "--model", options.model, "--count", str(count)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        print(f"{count:8,} responses: peak {peak} MiB")


if __name__ == "__main__":
    main()
