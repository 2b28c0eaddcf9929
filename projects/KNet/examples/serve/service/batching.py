"""Pictures of several requests -> one run of the network."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Deque, Dict, List, Sequence, Tuple

import numpy as np

logger = logging.getLogger(__name__)

Predict = Callable[[Sequence[np.ndarray], Sequence[Tuple[int, int]]], List[Dict]]


@dataclass(eq=False)
class _Waiting:
    picture: np.ndarray  # as the network takes it
    size: Tuple[int, int]  # height and width of the result
    answer: asyncio.Future
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Lets pictures of one size go through the network together: those of others wait.

    The one that has waited longest decides the size. It waits for others up to ``max_wait``, so a
    picture that comes alone is at most so much later; those that come while the network is busy
    have waited already.
    """

    def __init__(
        self,
        predict: Predict,
        max_batch: int,
        max_wait: float,
        on_batch: Callable[[int, float], None] = lambda count, seconds: None,
    ):
        """
        Args:
            predict: (pictures of one size, sizes of the results) -> results; called in a thread.
            max_batch: pictures a call.
            max_wait: seconds.
            on_batch: told of each call: the number of pictures, and the seconds that it took.
        """
        self._predict, self._max_batch, self._max_wait = predict, max_batch, max_wait
        self._on_batch = on_batch
        self._waiting: Deque[_Waiting] = deque()
        self._came = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def __call__(self, picture: np.ndarray, size: Tuple[int, int]) -> Any:
        """The result of one picture; cancelled, it leaves the queue."""
        item = _Waiting(picture, size, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._came.set()
        try:
            return await item.answer
        finally:
            if item in self._waiting:
                self._waiting.remove(item)

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            while not self._waiting:
                await self._next_comes(None)
            first = self._waiting[0]
            left = first.since + self._max_wait - time.monotonic()
            if left > 0 and len(self._alike(first)) < self._max_batch:
                await self._next_comes(left)  # or it is cancelled meanwhile: look again
                continue
            batch = self._alike(first)[: self._max_batch]
            for item in batch:
                self._waiting.remove(item)
            await self._answer(batch)

    def _alike(self, first: _Waiting) -> List[_Waiting]:
        return [item for item in self._waiting if item.picture.shape == first.picture.shape]

    async def _next_comes(self, seconds) -> None:
        self._came.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._came.wait(), seconds)

    async def _answer(self, batch: List[_Waiting]) -> None:
        pictures, sizes = [item.picture for item in batch], [item.size for item in batch]
        start = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            results = await loop.run_in_executor(self._thread, self._predict, pictures, sizes)
        except Exception as error:
            if len(batch) > 1:  # one of them may be to blame: the others get their answers
                logger.warning("a batch failed, its pictures go alone", exc_info=True)
                for item in batch:
                    await self._answer([item])
            elif not batch[0].answer.done():
                batch[0].answer.set_exception(error)
            return
        self._on_batch(len(batch), time.perf_counter() - start)
        for item, result in zip(batch, results):
            if not item.answer.done():  # its client may be gone
                item.answer.set_result(result)
