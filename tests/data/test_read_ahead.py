"""Reading ahead of whoever asks: in order, bounded, and over when it is over."""

import itertools
import threading
import time

import pytest

from knet.data.read_ahead import read_ahead


def threads() -> int:
    return threading.active_count()


def test_the_order_is_kept_whatever_each_takes():
    def read(i):
        time.sleep(0.002 * (i % 3))
        return i * i

    before = threads()
    for workers in (1, 2, 5):
        assert list(read_ahead(read, range(20), workers, ahead=4)) == [i * i for i in range(20)]
    assert threads() == before
    assert list(read_ahead(read, [], 2, ahead=4)) == []


def test_it_reads_ahead_but_not_beyond_the_bound():
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield i

    items = read_ahead(lambda i: i, endless(), 2, ahead=3)
    for i in range(5):
        assert next(items) == i
        bound = i + 1 + 3
        deadline = time.monotonic() + 10
        while len(taken) < bound and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.005)
        assert len(taken) == bound
    items.close()
    assert len(taken) == bound


def test_several_are_read_at_a_time():
    both = threading.Barrier(2, timeout=10)
    assert len(list(read_ahead(lambda _: both.wait(), range(6), 2, ahead=2))) == 6


@pytest.mark.parametrize("end", ["close", "forget", "interrupt"])
def test_the_threads_end_with_the_generator(end):
    before = threads()
    items = read_ahead(lambda i: i, itertools.count(), 3, ahead=6)
    assert [next(items), next(items)] == [0, 1] and threads() == before + 3
    if end == "close":
        items.close()
    elif end == "forget":
        del items
    else:
        with pytest.raises(KeyboardInterrupt):
            items.throw(KeyboardInterrupt)
    assert threads() == before


def test_an_error_comes_at_its_place():
    def read(i):
        if i == 3:
            raise ZeroDivisionError
        return i

    def sources():
        yield from (0, 1)
        raise KeyError("camera")

    before = threads()
    items = read_ahead(read, range(9), 2, ahead=4)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(items)
    items = read_ahead(read, sources(), 2, ahead=4)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError, match="camera"):
        next(items)
    assert threads() == before
