"""Detectron2's demo for K-Net: pictures, folders, a video or a camera in, drawn results out.

    knet predict --weights model_final.pth --input street.jpg --output results
    knet predict --weights model_final.pth --video-input drive.mp4 \\
        --output results
    knet predict --weights model_final.pth --webcam

--output is a folder; of one picture or a video also the file to write. Without it results are shown
in a window (a key: the next one, Escape: the end). Stopped, the same command goes on where it was:
each picture once. It never writes over what is there already.

Exit status: 0 all done; 1 nothing done, a sentence says why; 3 some pictures could not be read, see
failures.csv; 130 stopped by Ctrl-C.
"""

import argparse
import itertools
import logging
import os
import signal
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional

from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..data.image_files import SUFFIXES, find_images
from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..files import replacing, sha256_of
from ..model_zoo import get_config
from ..predictor import Predictor
from ..results.kinds import KINDS, choose_results
from ..results.predictions import predict_alone, predict_each
from ..results.run import FAILURES, predict_images
from ..results.run_folder import STATE, RunFolder
from ..results.writers import (
    InstanceFiles,
    LabelFiles,
    PanopticFiles,
    PictureFiles,
    ResultFiles,
    TableFiles,
)
from ..video import (
    CODECS,
    Frame,
    VideoReader,
    camera_frames,
    check_video_output,
    predict_frames,
    write_video,
)
from ..visualization import VideoDrawer, draw_result
from ..visualization.window import Window
from .parsers import parser_of
from .weights_file import need_weights

SAVE = {
    "coco-panoptic": PanopticFiles,
    "coco-instances": InstanceFiles,
    "labels": LabelFiles,
    "table": TableFiles,
}
RESERVED = [files.FOLDER for files in SAVE.values() if files.FOLDER]
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
SOME_FAILED, INTERRUPTED = 3, 130


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = parser_of(__doc__, program)
    parser.set_defaults(program=program)
    add = parser.add_argument
    add("--weights", help="model file; or give --opts MODEL.WEIGHTS FILE")
    add("--config-file", help="of the model, where the weights do not carry it")
    add("--input", nargs="+", help="pictures, folders (with those below them), patterns")
    add("--video-input", help="a video file")
    add("--webcam", action="store_true", help="take the first camera")
    add("--output", help="folder; or a .jpg or .png for one picture, a .mp4 or .webm for a video")
    add("--confidence-threshold", type=float, help="of things; the config's if left out")
    add("--kind", choices=KINDS, help="of result to draw; the first that the model has if left out")
    add("--opacity", type=float, default=0.5, help="of the masks, 0 (outlines) to 1")
    add("--no-labels", action="store_true", help="draw no names")
    add("--no-overlap", action="store_true", help="give each pixel to one instance at most")
    add(
        "--save",
        nargs="+",
        choices=list(SAVE),
        default=[],
        help="results for programs: PNGs and json of COCO panoptic, json of COCO instances, PNGs "
        "of class ids, a table of what was found",
    )
    add("--no-pictures", action="store_true", help="draw nothing, only --save")
    add("--workers", type=int, default=2, help="threads that read pictures (2)")
    add("--batch-size", type=int, default=1, help="pictures at once, where sizes are equal (1)")
    add("--device", help="cpu, cuda, cuda:1, ...; a GPU if there is one")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values, come last")
    return parser.parse_args(argv)


def main(argv=None, program: str = "demo.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    logging.getLogger("libav").setLevel(logging.CRITICAL)  # a damaged video: one sentence, not many
    try:
        check_arguments(args)
        if args.input:
            return demo_on_pictures(args)
        return demo_on_video(args)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
    except OSError as error:  # e.g. the disk is full
        print(
            f"{program}: cannot write the results: {error}; give another --output", file=sys.stderr
        )
    except KeyboardInterrupt:
        advice = "the same command goes on from here" if args.input else "nothing is written"
        print(f"\n{program}: stopped, {advice}", file=sys.stderr)
        return INTERRUPTED
    return 1


# ---------------------------------------------------------------------------------- arguments


def check_arguments(args: argparse.Namespace) -> None:
    """Find what cannot work before the model is loaded; moves MODEL.WEIGHTS to ``args.weights``.

    Raises:
        UsageError: it cannot.
    """
    given = [args.input is not None, args.video_input is not None, args.webcam]
    if sum(given) != 1:
        raise UsageError("give one of --input, --video-input and --webcam")
    if "MODEL.WEIGHTS" in args.opts[:-1:2]:
        place = args.opts.index("MODEL.WEIGHTS")
        if args.weights:
            raise UsageError("MODEL.WEIGHTS and --weights name the weights twice: leave one out")
        args.weights = args.opts[place + 1]
        args.opts = args.opts[:place] + args.opts[place + 2 :]
    if not args.weights:
        raise UsageError("no weights: give --weights FILE")
    need_weights(args.weights)
    if args.video_input is not None:
        need_file(args.video_input, "--video-input")
    for name in ("opacity", "confidence_threshold"):
        value = getattr(args, name)
        if value is not None and not 0 <= value <= 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {value}: give a number from 0 to 1")
    for name in ("workers", "batch_size"):
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(args, name)}: give 1 or more")
    if args.no_pictures and not args.save:
        raise UsageError("--no-pictures leaves nothing to write: give --save")
    if args.save and not args.input:
        raise UsageError("--save is for pictures: give --input, with the video's frames as files")
    if args.save and not args.output:
        raise UsageError("--save needs a folder to write to: give --output")


def load_predictor(args: argparse.Namespace) -> Predictor:
    opts = list(args.opts)
    if args.confidence_threshold is not None:
        opts += ["MODEL.KNET.TEST.SCORE_THRESHOLD", args.confidence_threshold]
    return Predictor(
        args.weights,
        config=args.config_file,
        device=args.device,
        opts=opts,
        batch_size=args.batch_size,
        overlap=not args.no_overlap,
    )


def drawing_options(predictor: Predictor, args: argparse.Namespace) -> Dict:
    """For ``draw_result``; the model makes the results that are drawn or saved, and no others."""
    also = [SAVE[name].KIND for name in args.save]
    return {
        "kind": choose_results(predictor.model, args.kind, also),
        "score_threshold": predictor.cfg.MODEL.KNET.TEST.SCORE_THRESHOLD,
        "opacity": args.opacity,
        "labels": not args.no_labels,
    }


# ----------------------------------------------------------------------------------- pictures


def demo_on_pictures(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    sources = find_images(args.input, skip_folder=is_output)
    if args.output is None:
        return show_pictures(args, sources)
    if not os.path.isdir(args.output):
        if args.output.lower().endswith(PICTURE_SUFFIXES):
            return draw_one_picture(args, sources)
        if args.output.lower().endswith((*SUFFIXES, *CODECS)):
            raise UsageError(
                f"{args.output} must end in {', '.join(PICTURE_SUFFIXES)} to be written as a "
                "picture; or give a folder"
            )
    for given in args.input:
        if os.path.isdir(given) and os.path.realpath(given) == os.path.realpath(args.output):
            raise UsageError(f"--output is the folder of the pictures, {given}: give another")
    with RunFolder(args.output, run_settings(args), RESERVED) as folder:
        images = folder.add(sources)
        num_done = sum(folder.is_done(image) for image in images)
        if num_done == len(images) and folder.is_complete:
            print(f"all {len(images)} pictures are done already, in {args.output}")
            return 0
        if num_done:
            print(f"{num_done} of {len(images)} pictures are done already", file=sys.stderr)
        predictor = load_predictor(args)
        files = files_to_write(predictor, args, folder)
        with (
            progress(total=len(images), initial=num_done, unit=" pictures") as bar,
            logging_redirect_tqdm(),
        ):
            failures = predict_images(
                predictor, folder, images, files, workers=args.workers, progress=bar.update
            )
    print(f"{len(images) - len(failures)} of {len(images)} pictures are done, in {args.output}")
    if failures:
        path = os.path.join(args.output, FAILURES)
        _, reason = failures[0]
        print(
            f"{args.program}: {len(failures)} could not be done, see {path}; the first: {reason}",
            file=sys.stderr,
        )
        return SOME_FAILED if len(failures) < len(images) else 1
    return 0


def files_to_write(
    predictor: Predictor, args: argparse.Namespace, folder: RunFolder
) -> List[ResultFiles]:
    options = drawing_options(predictor, args)
    files: List[ResultFiles] = []
    if not args.no_pictures:
        metadata = predictor.metadata
        files.append(PictureFiles(folder, lambda *item: draw_result(*item, metadata, **options)))
    for name in args.save:
        more = (options["kind"], options["score_threshold"]) if name == "table" else ()
        files.append(SAVE[name](folder, predictor.classes, *more))
    return files


def run_settings(args: argparse.Namespace) -> Dict:
    """What the results depend on, by the flags; for the folder, not to mix others with them."""
    weights, config = args.weights, args.config_file
    if os.path.isfile(weights):
        weights = f"{os.path.basename(weights)}, SHA-256 {sha256_of(weights)}"
    names = ("confidence_threshold", "kind", "opacity", "no_labels", "no_overlap", "no_pictures")
    return {
        "--weights": weights,
        "--config-file": config and get_config(config).dump(),
        "--opts": args.opts,
        "--save": sorted(args.save),
        **{f"--{name.replace('_', '-')}": getattr(args, name) for name in names},
    }


def draw_one_picture(args: argparse.Namespace, sources: List[str]) -> int:
    """One picture into a file of a given name; returns the exit status."""
    if len(sources) > 1 or args.save:
        raise UsageError(
            f"--output {args.output} is one picture: give a folder for {len(sources)} pictures "
            "or for --save"
        )
    refuse_existing(args.output)
    predictor = load_predictor(args)
    options = drawing_options(predictor, args)
    item = predict_alone(predictor, sources[0])
    if item.error:
        raise item.error
    picture = Image.fromarray(draw_result(item.image, item.result, predictor.metadata, **options))
    with replacing(Path(args.output)) as path:
        picture.save(path, "PNG" if args.output.lower().endswith(".png") else "JPEG", quality=90)
    print(f"the picture is {args.output}")
    return 0


def show_pictures(args: argparse.Namespace, sources: List[str]) -> int:
    """Show the results in a window, one after the other; returns the exit status."""
    window = Window("K-Net")  # first: there may be no screen
    predictor = load_predictor(args)
    options = drawing_options(predictor, args)
    num_failed = 0
    for item in predict_each(predictor, sources, args.workers):
        if item.error:
            print(f"{args.program}: {item.error}", file=sys.stderr)
            num_failed += 1
            continue
        picture = draw_result(item.image, item.result, predictor.metadata, **options)
        if not window.show(picture, wait=True):
            break
    window.close()
    if num_failed == len(sources):
        return 1
    return SOME_FAILED if num_failed else 0


# -------------------------------------------------------------------------------------- video


def demo_on_video(args: argparse.Namespace) -> int:
    """Returns the exit status."""
    output = video_output(args)
    if not args.webcam:
        with VideoReader(args.video_input) as reader:
            return play(args, reader, output, reader.num_frames, reader.rate)
    return play(args, until_ctrl_c(camera_frames()), output)


def until_ctrl_c(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames of a camera, which ends no other way; those that it has given are kept."""
    stopped = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stopped.set())
    try:
        yield from itertools.takewhile(lambda _: not stopped.is_set(), frames)
    finally:
        signal.signal(signal.SIGINT, before)


def video_output(args: argparse.Namespace) -> Optional[str]:
    """The file to write: as given, or in the folder given by the video's name.

    Raises:
        UsageError: it is there already, or cannot be written.
    """
    path = args.output
    if path is None:
        return None
    if os.path.isdir(path) or not os.path.splitext(path)[1]:
        name = "webcam" if args.webcam else Path(args.video_input).stem
        path = os.path.join(path, f"{name}.mp4")
    check_video_output(path)
    refuse_existing(path)
    return path


def play(
    args: argparse.Namespace,
    frames: Iterable[Frame],
    output: Optional[str],
    num_frames: Optional[int] = None,
    rate: Fraction = Fraction(25),
) -> int:
    """Draw the results of frames into a file, or a window without one; returns the exit status."""
    window = None if output else Window("K-Net")  # before the model: there may be no screen
    predictor = load_predictor(args)
    draw = VideoDrawer(predictor.metadata, **drawing_options(predictor, args))
    if args.webcam:  # what is read ahead would be shown late
        pairs = ((frame, predictor(frame.image)) for frame in frames)
    else:
        pairs = predict_frames(predictor, frames, args.workers)
    pairs = progress(pairs, total=num_frames, unit=" frames")
    drawn = (Frame(draw(frame.image, result), frame.time) for frame, result in pairs)
    if output:
        num_written = write_video(output, drawn, rate)
        print(f"{num_written} frames are drawn, without sound, in {output}")
        return 0
    for frame in drawn:
        if not window.show(frame.image):
            break
    window.close()
    return 0


# -------------------------------------------------------------------------------------- shared


def progress(items: Optional[Iterable] = None, **options) -> tqdm:
    """A bar with the time that is left, on a terminal."""
    return tqdm(items, disable=None, dynamic_ncols=True, **options)


def need_file(path: str, flag: str) -> None:
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "does not exist"
        raise UsageError(f"{path} {what}: correct {flag}")


def refuse_existing(path: str) -> None:
    if os.path.exists(path):
        raise UsageError(f"{path} exists already: remove it, or give another --output")


def is_output(folder: str) -> bool:
    """Did a run of this program make it?"""
    return os.path.isdir(os.path.join(folder, STATE))
