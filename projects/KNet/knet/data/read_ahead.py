"""A function over an iterable, computed ahead in threads, in order."""

import queue
import threading
from concurrent.futures import Future
from typing import Callable, Iterable, Iterator, TypeVar

__all__ = ["read_ahead"]

Source, Result = TypeVar("Source"), TypeVar("Result")

# An iterable that blocks, such as a camera, cannot be ended: its thread is left behind after this.
_JOIN_SECONDS = 5.0


def read_ahead(
    read: Callable[[Source], Result], sources: Iterable[Source], workers: int, ahead: int
) -> Iterator[Result]:
    """``read`` of each source, in order.

    Args:
        read: called in the threads, several at a time.
        sources: may be endless; advanced by the threads, one at a time.
        workers: number of threads.
        ahead: of how many sources beyond those handed out at most are taken.

    Raises:
        what ``sources`` or ``read`` raises, at its place in the order.
    """
    reader = _Reader(read, sources, ahead)
    threads = [threading.Thread(target=reader.run, daemon=True) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        while (future := reader.results.get()) is not None:
            result = future.result()
            reader.free.release()
            yield result
    finally:  # also when the generator is closed early, or interrupted
        reader.stopped = True
        reader.free.release(len(threads))
        for thread in threads:
            if thread.ident:  # it was started
                thread.join(_JOIN_SECONDS)


class _Reader:
    """What the threads share."""

    def __init__(self, read: Callable, sources: Iterable, ahead: int):
        self.read = read
        self.sources = iter(sources)
        self.results = queue.SimpleQueue()  # of futures, in order; None: no more
        self.free = threading.Semaphore(ahead)
        self.taking = threading.Lock()
        self.stopped = False

    def run(self) -> None:
        while True:
            self.free.acquire()
            with self.taking:
                if self.stopped:
                    return
                future = Future()
                try:
                    source = next(self.sources)
                except StopIteration:
                    self.stopped = True
                    self.results.put(None)
                    return
                except BaseException as error:  # for the thread that asks for the result
                    self.stopped = True
                    future.set_exception(error)
                    self.results.put(future)
                    return
                self.results.put(future)
            try:
                future.set_result(self.read(source))
            except BaseException as error:
                future.set_exception(error)
