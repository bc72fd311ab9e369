"""Run by test_resume in a process of its own: train, and die by SIGKILL at a chosen moment."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    base, data, output, options, moment = sys.argv[1:]
    from prudent.training import TrainingConfig, train
    from prudent.training import _run as run
    from prudent.training._trainer import PairTrainer

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    trained_step = PairTrainer.training_step

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 17:
            die()
        return trained_step(self, *args, **kwargs)

    if moment == "in a step":
        PairTrainer.training_step = training_step  # type: ignore[method-assign]
    elif moment == "in a checkpoint":
        save_optimizer = PairTrainer._save_optimizer_and_scheduler

        def save(self: Any, folder: str) -> None:
            if self.state.global_step >= 15:
                die()
            save_optimizer(self, folder)

        PairTrainer._save_optimizer_and_scheduler = save  # type: ignore[method-assign]
    elif moment == "while finishing":
        replace = os.replace

        def move(source: Any, target: Any) -> None:
            if Path(target).name == "adapter_config.json":
                die()
            replace(source, target)

        run.os.replace = move  # type: ignore[attr-defined]
    train(base, json.loads(data), output, config=TrainingConfig(**json.loads(options)), progress=False)


if __name__ == "__main__":
    main()
