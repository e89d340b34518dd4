"""The whole training of the model that ships: one from nothing, two from there that say words later, and their mean.

It can be stopped at any time, and goes on when the same command is given again. Options that are not listed go to each
of the trainings, as --trainer.precision bf16-mixed does; train.py --help lists them.

example: python recipes/alphanum_en/whole.py --corpora-dir ~/corpora --output-dir runs/whole
"""

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from sru_asr.script import run

HERE = Path(__file__).resolve().parent
# Options of all trainings, of the first one, and of those that begin with it.
ALL = ("--loss.windowed", "1.0", "--augment.channel", "0.9", "--augment.channel_db", "10")
FIRST = ("--model.floor", "1e-10", "--trainer.max_epochs", "10")
LATER = ("--loss.delay", "3", "--loss.delayed", "0.3", "--trainer.max_epochs", "14")
BRANCHES = 2


def stages(output_dir: Path, seed: int, options: list[str]) -> list[dict[str, list[str]]]:
    """What is run, stage by stage, all of a stage at once: the arguments of Python, by a name for each."""
    first = str(output_dir / "first")
    later = {f"later{number}": str(1000 * (number + 1) + seed) for number in range(BRANCHES)}
    folders = [str(output_dir / name) for name in later]
    train = [str(HERE / "train.py"), *ALL]
    return [
        {"first": [*train, *FIRST, *options, "--output-dir", first, "--seed", str(seed)]},
        {
            name: [*train, *LATER, *options, "--output-dir", folder, "--seed", own, "--init-from", first]
            for folder, (name, own) in zip(folders, later.items(), strict=True)
        },
        {"mean": [str(HERE / "average.py"), *folders, "--output-dir", str(output_dir)]},
    ]


def run_together(commands: dict[str, list[str]]) -> None:
    """Run Python with each of these arguments, all at once; they share the cores. Several say who speaks.

    Raises:
        SystemExit: one of them failed, of which it has said why, with its status; the others have been stopped.
    """
    alone = len(commands) == 1
    threads = {} if alone else {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // len(commands), 1))}
    processes = {
        name: subprocess.Popen(
            [sys.executable, *command],
            env={**threads, **os.environ},
            start_new_session=True,  # they are stopped from here, and once
            stdout=None if alone else subprocess.PIPE,
            stderr=None if alone else subprocess.STDOUT,
            text=True,
        )
        for name, command in commands.items()
    }
    with ThreadPoolExecutor(len(processes)) as pool:
        done = [pool.submit(_follow, name, process) for name, process in processes.items()]
        try:
            for future in as_completed(done):
                if status := future.result():
                    sys.exit(status if status > 0 else 128 - status)
        finally:
            for process in processes.values():
                process.terminate()  # then it writes what it goes on from; nothing happens to one that has ended


def _follow(name: str, process: subprocess.Popen) -> int:
    """Pass on what it prints, if it is not heard anyway; its status in the end."""
    for line in process.stdout or ():
        print(f"{name}: {line}", end="", flush=True)
    return process.wait()


def main() -> None:
    """Parses the command line and runs all stages; of one that is finished only the measurement is repeated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/whole"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    arguments, options = parser.parse_known_args()
    for name in {"SIGTERM", "SIGHUP"} & set(dir(signal)):
        signal.signal(getattr(signal, name), lambda signum, _: sys.exit(128 + signum))
    plan = stages(arguments.output_dir, arguments.seed, options)
    for number, stage in enumerate(plan, 1):
        print(f"stage {number} of {len(plan)}: {', '.join(stage)}", flush=True)
        run_together(stage)


if __name__ == "__main__":
    run(main)
