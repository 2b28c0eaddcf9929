"""The checkpoints in the folder of a run: each is there whole or not at all, and one can be found.

Detectron2 writes into the file itself: a process killed meanwhile leaves half of one, named as the
last.
"""

import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any, FrozenSet, List

import torch
from fvcore.common.checkpoint import Checkpointer

from ..checkpoint.safe_load import load_file
from ..errors import UsageError
from ..files import replacing

__all__ = ["RunFolder"]

logger = logging.getLogger(__name__)

_LAST = "last_checkpoint"
_CHECKPOINT = re.compile(r"model_(\d{7}|final)\.pth")  # as Detectron2's hook names them
_NUMBERED = re.compile(r"model_\d{7}\.pth")
_PART = re.compile(r"\.(model\w*\.(pth|safetensors)|last_checkpoint)\.\d+\.part")


class RunFolder(Checkpointer):
    """A checkpointer that writes whole files, and goes on from the last that can be read.

    Of the numbered ones the last ``keep`` are kept, 0: all; older ones go when a new one is whole.
    """

    keep = 0
    saved = ""  # name of the last that was written, or gone on from
    _unreadable: FrozenSet[str] = frozenset()  # names of files, which do not count as kept

    def save(self, name: str, **kwargs: Any) -> None:
        """As in fvcore.

        Raises:
            UsageError: the file cannot be written; those that were there are as they were.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {"model": self.model.state_dict()}
        content.update((key, part.state_dict()) for key, part in self.checkpointables.items())
        content.update(kwargs)
        path = Path(self.save_dir, f"{name}.pth")
        logger.info(f"Saving checkpoint to {path}")
        # torch tells of a full disk by a RuntimeError
        try:
            with replacing(path) as part, open(part, "wb") as file:
                torch.save(content, file)
            self.tag_last_checkpoint(path.name)
            self.saved, self._unreadable = name, self._unreadable - {path.name}
        except (OSError, RuntimeError) as error:
            good = self._candidates()
            state = f"the last good one is {good[0]}" if good else "there is none before it"
            raise UsageError(
                f"the checkpoint {path} cannot be written ({' '.join(str(error).split())}); "
                f"{state}: make room, or let the folder be written, and go on with --resume"
            ) from error
        self._remove_old()

    def _remove_old(self) -> None:
        numbered = [p for p in self._candidates() if _NUMBERED.fullmatch(os.path.basename(p))]
        whole = [path for path in numbered if os.path.basename(path) not in self._unreadable]
        for path in whole[self.keep :] if self.keep else ():
            try:
                os.unlink(path)
            except OSError as error:
                logger.warning(f"Cannot remove an old checkpoint: {error}")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with replacing(Path(self.save_dir, _LAST)) as part:
            part.write_text(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Also one that ``last_checkpoint`` does not name, as that file is missing."""
        return bool(self._candidates())

    def last_checkpoint(self) -> str:
        """Path of the last that is there, whole or not; "" if there is none."""
        return next(filter(os.path.isfile, self._candidates()), "")

    def readable_checkpoint(self) -> str:
        """The last checkpoint, or the newest before it that can be read.

        Also takes away what a process that was killed had begun to write.

        Raises:
            UsageError: none can be read.
        """
        if self.save_to_disk:
            for name in filter(_PART.fullmatch, os.listdir(self.save_dir)):
                Path(self.save_dir, name).unlink(missing_ok=True)
        candidates = self._candidates()
        reasons = []
        for path in candidates:
            try:
                load_file(path)
            except (OSError, pickle.UnpicklingError) as error:
                reasons.append(f"{path} ({' '.join(str(error).split()).rstrip('.')})")
                self._unreadable |= {os.path.basename(path)}
                continue
            if reasons:
                logger.warning(
                    f"Cannot read the last checkpoint {', '.join(reasons)}: going on from {path}"
                )
            elif not self._named():
                logger.warning(f"{self.save_dir} has no {_LAST}: going on from {path}")
            self.saved = Path(path).stem
            return path
        raise UsageError(
            f"cannot load {', '.join(reasons)}: no checkpoint of OUTPUT_DIR can be read; put a "
            "whole one there, choose another OUTPUT_DIR, or leave out --resume"
        )

    def _named(self) -> str:
        """What ``last_checkpoint`` says, "" if nothing."""
        try:
            # half of a file may hold anything
            return Path(self.save_dir, _LAST).read_text(errors="replace").strip()
        except OSError:
            return ""

    def _candidates(self) -> List[str]:
        """Paths of the named checkpoint, then of the others, the newest first."""
        try:
            names = filter(_CHECKPOINT.fullmatch, os.listdir(self.save_dir or "."))
            paths = [os.path.join(self.save_dir, name) for name in names] if self.save_dir else []
            paths.sort(key=os.path.getmtime, reverse=True)
        except OSError:
            paths = []
        named = self._named() if self.save_dir else ""
        if named:
            last = os.path.join(self.save_dir, named)
            paths = [last, *(path for path in paths if path != last)]
        return paths
