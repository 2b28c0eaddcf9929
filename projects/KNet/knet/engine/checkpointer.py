"""Loading weights: what cannot be loaded is told in one sentence."""

import pickle

from detectron2.checkpoint import DetectionCheckpointer

from ..errors import UsageError

__all__ = ["KNetCheckpointer"]


class KNetCheckpointer(DetectionCheckpointer):
    """Detectron2's, that says which file it could not load.

    With ``complete`` every weight of the model must be in the file, in its shape.
    """

    complete = False

    def resume_or_load(self, path: str, *, resume: bool = True):
        # a run that goes on must find all of its weights
        if resume and self.has_checkpoint():
            self.complete = True
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, *args, **kwargs):
        self._path = path
        try:
            return super().load(path, *args, **kwargs)
        except UsageError:
            raise
        except (
            AssertionError,
            EOFError,
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            pickle.UnpicklingError,
        ) as error:
            raise UsageError(
                f"cannot load {path}: {' '.join(str(error).split())}; set MODEL.WEIGHTS to a file "
                "of weights, or to '' to start from nothing"
            ) from error

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        if (
            not set(self.model.state_dict())
            - set(incompatible.missing_keys)
            - {name for name, *_ in incompatible.incorrect_shapes}
        ):
            raise UsageError(
                f"{self._path} holds no weight that this model has: it is of another model, set "
                "MODEL.WEIGHTS to one of this"
            )
        absent = [name for name, *_ in incompatible.incorrect_shapes]
        # a counter of BatchNorm that nothing here reads, and that many files lack
        absent += [k for k in incompatible.missing_keys if not k.endswith("num_batches_tracked")]
        if self.complete and absent:
            raise UsageError(
                f"{self._path} holds the weights of another model: {absent[0]} is missing or of "
                "another shape; set MODEL.WEIGHTS, OUTPUT_DIR (--resume) or MODEL.KNET.* to fit"
            )
        return incompatible
