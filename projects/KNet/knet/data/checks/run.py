"""The check of all data sets of a config: files, images and ground truth, in parallel processes."""

import functools
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Iterator, Sequence, Set, Tuple

from tqdm import tqdm

from ...errors import DatasetError, UsageError
from ..class_layout import resolve_model_classes
from ..image_reading import ImageReader
from .files import FILE_KEYS, files_of, is_address, missing_files, tell_of_shared_files
from .kinds import ERROR, KINDS
from .one_image import Findings, Settings, check_one_image
from .report import Report
from .sources import CheckedSet, read_sets
from .whole_sets import check_set, check_together, statistics_of

__all__ = ["check_data"]

_CHUNK = 16  # images that a process gets at once


def check_data(cfg, workers: int = 1, progress: bool = False) -> Report:
    """Read every file of ``DATASETS.TRAIN`` and ``TEST``, and tell all that is wrong.

    Args:
        cfg: the config; its data sets need not be registered.
        workers: processes that read; 1: this one.
        progress: whether to show a bar.

    Raises:
        UsageError: ``DATASETS`` itself is not in order.
        DatasetError: a process was killed.
    """
    report = Report()
    sets = read_sets(cfg, report.of)
    missing = missing_files(itertools.chain.from_iterable(files_of(s.dicts) for s in sets))
    report.inputs = [p for s in sets for p in (*s.files, *files_of(s.dicts))]
    report.root = _common_folder(report.inputs)
    findings = {each.name: [] for each in sets}
    names, *tasks = zip(*_tasks(cfg, sets, set(missing))) if any(s.dicts for s in sets) else [()]
    for name, found in zip(names, _map(tasks, workers, progress)):
        findings[name].append(found)
    num_kernels = cfg.MODEL.KNET.NUM_KERNELS if cfg.MODEL.META_ARCHITECTURE == "KNet" else 0
    for each in sets:
        tell = report.of(each.name)
        own = set(files_of(each.dicts))
        for path in missing:
            if path in own:
                tell("missing", path)
        tell_of_shared_files(each.dicts, tell)
        for found in findings[each.name]:
            for kind, sentence in found.faults:
                tell(kind, sentence)
        check_set(each, findings[each.name], num_kernels, tell)
        report.statistics[each.name] = statistics_of(each, findings[each.name])
    check_together(sets, findings, report.of)
    _check_classes(cfg, report)
    return report


def _tasks(cfg, sets: Sequence[CheckedSet], missing: Set[str]) -> Iterator[Tuple]:
    """Name of the data set, and the arguments of :func:`check_one_image`."""
    for each in sets:
        settings = Settings(
            ImageReader.from_config(cfg),
            cfg.DATALOADER.MIN_IMAGE_SIDE if "TRAIN" in each.splits else 0,
            len(each.classes),
            each.ignore_label,
        )
        for d in each.dicts:
            yield each.name, d, settings, [key for key in FILE_KEYS if d.get(key) in missing]


def _map(tasks: Sequence[Sequence], workers: int, progress: bool) -> Iterator[Findings]:
    """The findings of each task, in their order.

    Args:
        tasks: the arguments of :func:`check_one_image`, each for all images.
        workers, progress: see :func:`check_data`.
    """
    number = len(tasks[0]) if tasks else 0
    bar = functools.partial(tqdm, total=number, unit=" images", disable=not progress)
    if workers <= 1 or number <= 1:
        yield from bar(map(check_one_image, *tasks) if tasks else ())
        return
    # the method by which torch's loaders start their workers here
    context = multiprocessing.get_context()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            yield from bar(pool.map(check_one_image, *tasks, chunksize=_CHUNK))
        except BrokenProcessPool as error:
            raise DatasetError(
                "a process of the check was killed, most likely as memory ran out: give fewer "
                "--workers"
            ) from error


def _common_folder(paths: Sequence[str]) -> str:
    folders = {os.path.dirname(path) for path in paths if not is_address(path)}
    try:
        common = os.path.commonpath(folders) if folders else ""
    except ValueError:  # on two drives, or relative and absolute
        return ""
    return common.rstrip(os.sep)


def _check_classes(cfg, report: Report) -> None:
    """Do the data sets have the classes that the config counts or lists?

    Asked as training does, where nothing else is wrong with the jsons.
    """
    if any(KINDS[f.kind].severity == ERROR and f.kind in _OF_JSON for f in report.faults):
        return
    try:
        resolve_model_classes(cfg)
    except (DatasetError, UsageError) as error:
        report.of(", ".join((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)))("class counts", str(error))


_OF_JSON = {"data set", "json", "entry", "same id", "category", "classes differ", "isthing"} | {
    *("unknown category", "unknown image", "polygon", "rle"),
}
