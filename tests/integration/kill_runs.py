"""Kill a small training at random instants, again and again, and let it go on each time.

    PYTHONPATH=projects/KNet python tests/integration/kill_runs.py --kills 1000
    ... --kills 100 --signals SIGTERM SIGINT

Each time it must go on from its last checkpoint, and at its end all must be as in a run that was
not killed, bit for bit. Half of the kills (-9, of the whole process group) are aimed at the moments
in which a checkpoint is written. By another signal it must have saved itself. Imports are done
once: each training is a fork of this process.
"""

import argparse
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from detectron2.utils.env import seed_all_rng

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from knet.checkpoint.safe_load import load_file
from knet.data.datasets.shapes.dataset import register_all_shapes
from knet.engine import main as main_module
from knet.engine.run_folder import RunFolder
from knet.engine.trainer import KNetTrainer
from tests.conftest import DEMO_CONFIG, TINY, pairs
from tests.engine.test_exact_resume import differences

PERIOD = 2  # iterations between checkpoints
WRITE_SECONDS = 0.08  # about what it takes to write one
ITERATIONS_A_KILL = 10  # of those that are not aimed, at most about


class Attempt:
    """A training in a process group of its own, which tells what it does."""

    def __init__(self, options: Dict, log: Path):
        self._lines, out = os.pipe()
        self._rest = b""
        self.process = os.fork()
        if self.process == 0:
            os.setpgid(0, 0)
            with open(log, "ab") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = 1
            try:
                _tell_through(out)
                # Detectron2's prints the environment and the config, and takes most of the time
                main_module.default_setup = lambda cfg, args: seed_all_rng(cfg.SEED)
                status = main_module.main(
                    ["--config-file", DEMO_CONFIG, "--resume", *pairs(options)]
                )
            except KeyboardInterrupt:
                status = 130
            finally:
                os.write(out, b"end %d\n" % status)
                os._exit(status)
        os.close(out)
        os.setpgid(self.process, self.process)  # whoever comes first

    def told(self, seconds: float) -> List[Tuple[str, int]]:
        """What it says within so many seconds: (start, iteration), (writing, ...), (saved, ...)."""
        if not select.select([self._lines], [], [], max(0.0, seconds))[0]:
            return []
        *lines, self._rest = (self._rest + os.read(self._lines, 4096)).split(b"\n")
        return [(line.split()[0].decode(), int(line.split()[1])) for line in lines]

    def end(self, number: int = signal.SIGKILL) -> Tuple[List[Tuple[str, int]], int]:
        """Ends it by a signal to its group; returns what it said last, and its exit code."""
        os.killpg(self.process, number)
        _, status = os.waitpid(self.process, 0)
        told = self.told(0)
        os.close(self._lines)
        return told, os.waitstatus_to_exitcode(status)


def _tell_through(pipe: int) -> None:
    save, resume_or_load = RunFolder.save, KNetTrainer.resume_or_load

    def told_save(self, name, **content):
        os.write(pipe, b"writing %d\n" % content["iteration"])
        save(self, name, **content)
        os.write(pipe, b"saved %d\n" % content["iteration"])

    def told_resume(self, resume=True):
        resume_or_load(self, resume)
        os.write(pipe, b"start %d\n" % self.start_iter)

    RunFolder.save, KNetTrainer.resume_or_load = told_save, told_resume


class Victim:
    """One run from its beginning to its end, over many kills."""

    def __init__(self, options: Dict, draw: random.Random, seconds: float, signals: Sequence[int]):
        """
        Args:
            options: of the training.
            draw: for the instants.
            seconds: after the start in which a kill comes that is not aimed.
            signals: to choose one from each time.
        """
        self._options, self._draw, self._seconds = options, draw, seconds
        self._signals = signals
        self._log = Path(options["OUTPUT_DIR"] + ".log")
        self._read = 0  # bytes of the log
        self.counts: Counter = Counter()
        self._saved = -1  # iteration of the last checkpoint, -1: none
        self._writing: Optional[int] = None  # that of one that was begun
        self._begun = False  # has this attempt?

    def run(self, kills: int) -> bool:
        """Kill it at most so often; has it come to its end?"""
        while self.counts["kills"] < kills:
            if self._attempt():
                return True
        return False

    def finish(self) -> None:
        """Let it come to its end."""
        while not self._attempt(kill=False):
            pass

    def _attempt(self, kill: bool = True) -> bool:
        start, writes, self._begun = time.monotonic(), 0, False
        aimed = self._draw.random() < 0.5
        at = start + (60 if aimed or not kill else self._draw.uniform(0, self._seconds))
        number = self._draw.randint(1, 2)
        attempt = Attempt(self._options, self._log)
        while True:
            for what, value in attempt.told(at - time.monotonic()):
                self._note(what, value)
                if what == "end":
                    attempt.end()
                    assert value == 0, f"it ended with {value}: {self._log}"
                    return True
                writes += what == "writing"
                if kill and aimed and what == "writing" and writes == number:
                    at = time.monotonic() + self._draw.uniform(0, WRITE_SECONDS)
            if time.monotonic() >= at:
                break
        assert kill, f"it hangs: {self._log}"
        number = self._draw.choice(self._signals)
        told, status = attempt.end(number)
        for what, value in told:
            self._note(what, value)
        if status == 0:
            return True
        if number == signal.SIGKILL:
            assert status == -number, f"it ended with {status}: {self._log}"
        else:
            # the second where the training had not begun
            assert status in (128 + number, -number), f"{status}: {self._log}"
            assert not self._begun or self._writing is None, f"it ended while it wrote: {self._log}"
            assert b"Traceback" not in self._log.read_bytes(), self._log
            self.counts["saved itself"] += b"Stopped by" in self._log.read_bytes()[self._read :]
            self._read = self._log.stat().st_size
        self.counts["kills"] += 1
        self.counts["while writing"] += self._begun and self._writing is not None
        parts = Path(self._options["OUTPUT_DIR"]).glob(".*.part")
        self.counts["half a file left"] += any(parts)
        return False

    def _note(self, what: str, iteration: int) -> None:
        if what == "start":
            # one that was begun may be whole, or not
            possible = {
                self._saved + 1,
                self._saved + 1 if self._writing is None else self._writing + 1,
            }
            assert iteration in possible, f"goes on from {iteration}, not {possible}: {self._log}"
            self._saved, self._writing, self._begun = iteration - 1, None, True
            self.counts["resumes"] += iteration > 0
        elif what == "writing":
            self._writing = iteration
        elif what == "saved":
            self._saved, self._writing = iteration, None


def options_of(folder: Path, workers: int, iterations: int) -> Dict:
    return {
        **TINY,
        "DATASETS.TRAIN": ("killed_panoptic_train",),
        "DATASETS.TEST": (),
        "DATALOADER.NUM_WORKERS": workers,
        "INPUT.CROP.ENABLED": True,
        "MODEL.KNET.KERNEL_UPDATE.DROPOUT": 0.1,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.CHECKPOINT_PERIOD": PERIOD,
        "SOLVER.CHECKPOINT_KEEP": 3,
        "OUTPUT_DIR": str(folder),
    }


def kill_runs(
    kills: int, iterations: int, seed: int, signals: Sequence[int], folder: Path
) -> Counter:
    """
    Args:
        kills: how many.
        iterations: of each run.
        seed: of the instants.
        signals: to choose one from each time.
        folder: for all that is written.

    Returns:
        how many kills, and what they hit.

    Raises:
        AssertionError: a run did not go on, lost more than it may, or ended otherwise.
    """
    torch.set_num_threads(1)
    register_all_shapes(str(folder), prefix="killed", scenes={"train": 12, "val": 1})
    draw, counts, straight, seconds = random.Random(seed), Counter(), {}, {}
    while counts["kills"] < kills:
        workers = (0, 2)[counts["runs"] % 2]
        if workers not in straight:
            start = time.monotonic()
            output = folder / f"straight_{workers}"
            Victim(options_of(output, workers, iterations), draw, 0, signals).finish()
            seconds[workers] = 0.5 + (time.monotonic() - start) * ITERATIONS_A_KILL / iterations
            straight[workers] = load_file(str(output / "model_final.pth"))
        output = folder / f"run_{counts['runs']}"
        options = options_of(output, workers, iterations)
        victim = Victim(options, draw, seconds[workers], signals)
        if not victim.run(kills - counts["kills"]):
            victim.finish()
        different = differences(straight[workers], load_file(str(output / "model_final.pth")))
        assert not different, f"{output}: {different[:3]}"
        numbered = sorted(output.glob("model_0*.pth"))
        assert len(numbered) <= 3, f"{numbered}"
        counts["runs"] += 1
        counts.update(victim.counts)
        print(", ".join(f"{what}: {number}" for what, number in counts.items()), flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=60, help="of each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--signals",
        nargs="+",
        default=["SIGKILL"],
        choices=["SIGKILL", "SIGTERM", "SIGINT", "SIGUSR1"],
    )
    args = parser.parse_args()
    # a shell has what it starts in the background ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        signals = [signal.Signals[name] for name in args.signals]
        kill_runs(args.kills, args.iterations, args.seed, signals, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
