"""A prediction for each image, also of images that the model cannot take."""

import weakref
from types import SimpleNamespace

import pytest
import torch

from knet.errors import DatasetError
from knet.results.predictions import predict_each
from tests.results.made import MadePredictor, write_image


@pytest.fixture
def sources(tmp_path):
    return [write_image(tmp_path / f"{i}.png", i) for i in range(5)]


class Fails(MadePredictor):
    """At a source; takes two at a time."""

    batch_size = 2

    def __init__(self, source, error):
        super().__init__()
        self.source, self.error = source, error
        self.tensors, self.still_held = [], []

    def stream(self, sources, workers=1):
        self.still_held += [each for each in self.tensors if each() is not None]
        for start in range(0, len(sources), 2):
            batch = sources[start : start + 2]
            tensor = torch.zeros(3)
            self.tensors.append(weakref.ref(tensor))
            if self.source in batch:
                raise self.error()
            yield from super().stream(batch)


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    "error, reason",
    [
        (
            lambda: RuntimeError("CUDA out of memory.\nUse less"),
            "it is too large for the memory: CUDA out",
        ),
        (MemoryError, "it is too large for the memory"),
        (
            lambda: RuntimeError("shapes differ"),
            "the model cannot take it: RuntimeError: shapes differ",
        ),
    ],
)
def test_what_the_model_cannot_take_has_an_error_and_the_others_a_result(
    sources, place, error, reason
):
    predictor = Fails(sources[place], error)
    found = list(predict_each(predictor, sources))
    assert [item.source for item in found] == sources
    assert [item.result is None for item in found] == [i == place for i in range(5)]
    failure = found[place].error
    assert isinstance(failure, DatasetError) and str(failure).startswith(reason)
    assert "\n" not in str(failure)
    assert predictor.seen == [source for i, source in enumerate(sources) if i != place]


def test_what_a_batch_had_in_the_memory_is_free_before_its_images_are_tried_alone(sources):
    predictor = Fails(sources[0], MemoryError)
    list(predict_each(predictor, sources))
    assert len(predictor.tensors) > 2 and predictor.still_held == []


def test_a_lost_gpu_is_no_images_fault(sources, monkeypatch):
    def lost(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    predictor = Fails(sources[0], RuntimeError)
    predictor.model = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(RuntimeError, match="was encountered"):
        next(predict_each(predictor, sources))
