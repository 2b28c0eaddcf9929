"""Functions of a model changed from outside, and put back."""

from contextlib import ExitStack
from typing import Any, Callable

__all__ = ["Patches"]

_NOT_THERE = object()


class Patches(ExitStack):
    """Leaving it undoes every change, the last first."""

    def put(self, owner: Any, name: str, wrap: Callable[[Callable], Callable]) -> None:
        """Replace ``owner.name`` by ``wrap(owner.name)``.

        Args:
            owner: an object or a module; of an object no other one of its class is changed.
        """
        before = vars(owner).get(name, _NOT_THERE)
        setattr(owner, name, wrap(getattr(owner, name)))
        self.callback(self._undo, owner, name, before)

    @staticmethod
    def _undo(owner: Any, name: str, before: Any) -> None:
        if before is _NOT_THERE:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
