"""The command ``knet``: every program of the project by its name.

    knet --help
    knet train --help

It stands beside the package, whose import takes seconds: nothing of that is imported before it is
known which program is wanted. A line of ``COMMANDS`` makes a command of a program.
"""

import difflib
import sys
from importlib import import_module, metadata
from typing import List, NamedTuple, Optional, Tuple

UNKNOWN = 2  # exit status, as argparse has it for a wrong command line


class Command(NamedTuple):
    """A program of the package.

    Attributes:
        module: has ``main(argv, program)``, which returns the exit status.
        summary: a line for ``knet --help``.
        first: words that come before the user's.
    """

    module: str
    summary: str
    first: Tuple[str, ...] = ()


# in the order of --help
COMMANDS = {
    "demo": Command("knet.commands.train_shapes", "learn built-in shapes, in minutes"),
    "check-data": Command("knet.commands.check_dataset", "check the data sets of a config"),
    "train": Command("knet.engine.main", "train a model"),
    "eval": Command("knet.engine.main", "evaluate a model on a data set", ("--eval-only",)),
    "compare": Command("knet.commands.compare", "train several configs, results in one table"),
    "predict": Command("knet.commands.demo", "results of pictures, folders, a video or a camera"),
    "predict-collection": Command(
        "knet.commands.predict_collection", "results of very many images, on several machines"
    ),
    "web": Command("knet.commands.web", "a page to try a model on one's own picture"),
    "export": Command("knet.commands.export", "a model as ONNX, torch.export or TorchScript"),
    "report": Command("knet.commands.report", "a page about a model: how good, where it fails"),
    "draw": Command("knet.commands.draw_results", "draw results of an evaluation beside the truth"),
    "draw-run": Command("knet.commands.draw_run", "draw curves of trainings"),
    "draw-losses": Command("knet.commands.draw_losses", "draw each loss of a training"),
    "draw-kernels": Command("knet.commands.draw_kernels", "draw what a model's kernels do"),
    "pack": Command("knet.commands.pack_predictions", "an archive for an evaluation server"),
    "model-file": Command("knet.commands.make_model_file", "make one file to share of a model"),
    "convert": Command(
        "knet.commands.convert_checkpoint", "change weights from the authors' form, and back"
    ),
    "convert-backbone": Command(
        "knet.commands.convert_backbone_weights", "ImageNet weights for a timm backbone"
    ),
    "prepare-ade20k": Command("knet.commands.prepare_ade20k", "make the files of ADE20K"),
    "benchmark": Command("knet.commands.benchmark", "time and memory of models, by their parts"),
    "check-overfit": Command("knet.commands.check_overfit", "can a model learn 8 images by heart?"),
}


def main(argv: Optional[List[str]] = None) -> int:
    """
    Args:
        argv: command line without the program's name; ``sys.argv`` if None.

    Returns:
        exit status of the program; 2 where there is no such one.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else UNKNOWN
    name, *rest = words
    if name == "--version":
        print(version())
        return 0
    if name not in COMMANDS:
        print(f"knet: {unknown(name)}", file=sys.stderr)
        return UNKNOWN
    command = COMMANDS[name]
    return import_module(command.module).main([*command.first, *rest], program=f"knet {name}")


def usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: knet COMMAND ...",
            "",
            "K-Net: panoptic, instance and semantic segmentation.",
            "",
            *lines,
            "",
            "knet COMMAND --help tells the options of each, knet --version the version.",
        ]
    )


def unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else "knet --help lists all"
    return f"there is no command '{name}': {hint}"


def version() -> str:
    try:
        return f"knet {metadata.version('knet-detectron2')}"
    except metadata.PackageNotFoundError:  # a checkout that is on PYTHONPATH only
        return "knet, not installed"


if __name__ == "__main__":
    sys.exit(main())
