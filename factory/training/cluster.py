"""`python -m factory.training.cluster RUN --processes N`: the processes of one training by Ray.

Begun on one machine of a Ray cluster (`ray start`); RUN and the base lie at the same paths on all
of them. Each process works as `python -m factory.training` does, on one GPU if not told otherwise;
when a machine is lost, all of them begin again from the newest checkpoint. Exit status as there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import Busy, FactoryError
from ..keeping import is_held
from .__main__ import PAUSED, WRONG, attend, say
from .errors import NotInstalled
from .folder import read_run
from .journal import LOCK_FILE, read_status

MISSING = "training on several machines needs the extra `ray` ({}): pip install 'lorikeet[ray]'"
RESTARTS = 3
"""How often a training begins again after a process or machine was lost."""


def main() -> int:
    """Read the command line, and wait until the training has ended."""
    asked = _arguments()
    folder = asked.run.resolve()
    try:
        read_run(folder)
        if is_held(folder / LOCK_FILE):
            raise Busy("another process works on this run; `lorikeet train pause` ends it")
        gather(folder, asked.processes, on_gpus=not asked.cpu)
    except FactoryError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG
    ended = read_status(folder)
    say(ended.state if not ended.why else f"{ended.state}: {ended.why}")
    return {"finished": 0, "paused": PAUSED}.get(ended.state, WRONG)


def gather(folder: Path, processes: int, *, on_gpus: bool) -> None:
    """Have Ray begin so many processes, and wait for their end. Raises NotInstalled."""
    try:
        from ray import train
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise NotInstalled(MISSING.format(error)) from error
    # What Ray itself would keep of a training: nothing, the run's folder has it all.
    with tempfile.TemporaryDirectory(prefix="lorikeet-ray-") as kept:
        trainer = TorchTrainer(
            work_here,
            train_loop_config={"folder": str(folder)},
            scaling_config=train.ScalingConfig(num_workers=processes, use_gpu=on_gpus),
            run_config=train.RunConfig(
                name=folder.name,
                storage_path=kept,
                failure_config=train.FailureConfig(max_failures=RESTARTS),
            ),
        )
        with suppress(train.TrainingFailedError):  # Ray has printed it, the run's status says why
            trainer.fit()


def work_here(config: dict[str, str]) -> None:
    """Be one process of a training; Ray has said in the environment which."""
    attend(Path(config["folder"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m factory.training.cluster",
        description="Train an adapter on the machines of a Ray cluster; go on where it was left.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder, on a shared disk")
    parser.add_argument(
        "--processes", type=int, required=True, metavar="N", help="of all machines together"
    )
    parser.add_argument("--cpu", action="store_true", help="one processor each, and no GPU")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
