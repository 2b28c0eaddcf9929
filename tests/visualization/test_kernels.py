"""Pictures of kernels: what is read from a model, and what the program draws."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from knet.commands import draw_kernels
from knet.engine.main import load_config
from knet.errors import UsageError
from knet.predictor import Predictor
from knet.visualization.kernel_attention import attention_among
from knet.visualization.kernel_record import record_kernels
from knet.visualization.kernel_stages import strongest
from knet.visualization.mean_masks import GRID, MeanMasks
from tests.conftest import DEMO_CONFIG, pairs
from tests.tools.demo import make_model_file, write_picture

POINTS = {
    "MODEL.KNET.KERNEL_HEAD.NAME": "PointKernelHead",
    "MODEL.KNET.KERNEL_UPDATE.IOU_BRANCH": True,
}


@pytest.fixture
def pictures(tmp_path):
    return [
        write_picture(tmp_path / "in" / name, seed) and str(tmp_path / "in" / name)
        for seed, name in enumerate(("a.png", "b.png"))
    ]


@pytest.fixture(params=[{}, POINTS], ids=["learned", "points"])
def predictor(request, tiny_options, tmp_path):
    return Predictor(make_model_file({**tiny_options, **request.param}, tmp_path / "model.pth"))


def test_what_is_recorded_is_what_the_model_does(predictor, pictures):
    before = predictor(pictures[0])
    record = record_kernels(predictor, pictures[0])
    model = predictor.model
    assert len(record.stages) == len(model.kernel_update_heads) + 1 == 3
    found = record.found(-1, 0.0)
    assert found.kernels == [s["kernel"] for s in before["panoptic_seg"][1]] != []
    scores = [segment["score"] for segment in found.segmentation.segments]
    assert scores == [s["score"] for s in before["panoptic_seg"][1]]
    ids = before["panoptic_seg"][0].numpy()
    for box, mask, segment in zip(
        found.segmentation.boxes, found.segmentation.masks, before["panoptic_seg"][1]
    ):
        whole = np.zeros_like(ids, dtype=bool)
        whole[box[0] : box[2], box[1] : box[3]] = mask
        assert (whole == (ids == segment["id"])).all()
    has_points = record.points() is not None
    assert has_points == (record.found(0, 0.0) is not None)  # else stage 0 has no classes
    # nothing is left on the model
    stages = len(record.stages)
    predictor(pictures[1])
    assert len(record.stages) == stages and not model._forward_pre_hooks
    assert torch.equal(predictor(pictures[0])["panoptic_seg"][0], before["panoptic_seg"][0])


def test_attention_is_the_softmax_of_queries_and_keys(predictor, pictures):
    record = record_kernels(predictor, pictures[0])
    attention = predictor.model.kernel_update_heads[0].attention
    seen = []
    handle = attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    predictor(pictures[0])
    handle.remove()
    with torch.inference_mode():
        projected = F.linear(seen[0], attention.in_proj_weight, attention.in_proj_bias)
    queries, keys, _ = projected.chunk(3, -1)
    heads, size = attention.num_heads, attention.head_dim
    queries, keys = (x[0].unflatten(1, (heads, size)).transpose(0, 1) for x in (queries, keys))
    weights = (queries @ keys.transpose(1, 2) / size**0.5).softmax(-1).mean(0)
    torch.testing.assert_close(record.attention[0], weights)

    part = attention_among(record, [2, 0])[0]
    count = len(weights)
    assert part[0, 1] == pytest.approx(count * float(weights[2, 0]), rel=1e-4)
    rest = float(weights[2].sum() - weights[2, 2] - weights[2, 0]) / (count - 2)
    assert part[0, 2] == pytest.approx(count * rest, rel=1e-4)


def test_mean_masks_are_means_over_images(predictor, pictures):
    means = MeanMasks(predictor.classes, 0.0)
    with pytest.raises(UsageError, match="no image"):
        _ = means.means
    total, finds = 0, 0
    for picture in pictures:
        record = record_kernels(predictor, picture)
        means.add(record)
        result = predictor(picture)
        finds += sum(s["isthing"] for s in result["panoptic_seg"][1])
        total = total + record.masks(-1, (GRID, GRID)).numpy()
    np.testing.assert_allclose(means.means, total / 2, rtol=1e-5)
    assert sum(sum(counts.values()) for counts in means.finds.values()) == finds > 0
    assert bool(means.means_at_points) == (record.points() is not None)


def test_a_mean_mask_at_points_is_around_the_point(tiny_options, tmp_path, pictures):
    predictor = Predictor(make_model_file({**tiny_options, **POINTS}, tmp_path / "model.pth"))
    record = record_kernels(predictor, pictures[0])
    found = record.found(-1, 0.0)
    kernel = next(
        kernel for kernel, s in zip(found.kernels, found.segmentation.segments) if s["isthing"]
    )
    # a mask that is sure at the cell of its point alone
    masks = torch.full_like(record.stages[-1].mask_logits, -20).clone()
    record.stages[-1].mask_logits = masks
    masks.view(*masks.shape[:2], -1)[0, kernel, record.stages[0].points.cells[0, kernel]] = 20
    means = MeanMasks(predictor.classes, 0.0)
    means._add_at_points(record, [(kernel, 0)])
    mean = means.means_at_points[0]
    rows, columns = np.nonzero(mean > 0.6 * mean.max())
    assert rows.mean() == pytest.approx(GRID / 2 - 0.5, abs=1)
    assert columns.mean() == pytest.approx(GRID / 2 - 0.5, abs=1)


def test_the_strongest_are_things_and_some_stuff(predictor, pictures):
    found = record_kernels(predictor, pictures[0]).found(-1, 0.0)
    chosen = strongest(found, 3)
    assert len(chosen) == len(set(chosen)) == min(3, len(found.kernels))
    assert set(chosen) <= set(found.kernels)


def test_the_program_draws_all_kinds(tiny_options, tmp_path, pictures, capsys):
    weights = make_model_file({**tiny_options, **POINTS}, tmp_path / "model.pth")
    words = ["--weights", weights, "--output", str(tmp_path / "out"), "--each", "1"]
    program = draw_kernels
    status = program.main([*words, "--confidence-threshold", "0", "--input", *pictures])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "a_stages.png",
        "a_attention.png",
        "mean_masks.png",
        "mean_masks_at_points.png",
    }
    assert len(captured.out.splitlines()) == len(names)
    for name in names:
        with Image.open(tmp_path / "out" / name) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 100 and len(np.unique(pixels)) > 50


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--input"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--input", "{pictures}", "--each", "-1"], "--each"),
        (["--input", "{pictures}", "--output", "{pictures}"], "give a folder as --output"),
        (["--input", "{pictures}", "--confidence-threshold", "1"], "--confidence-threshold"),
    ],
)
def test_what_cannot_be_drawn_is_told(tiny_options, tmp_path, pictures, capsys, words, told):
    weights = make_model_file(tiny_options, tmp_path / "model.pth")
    words = [pictures[0] if word == "{pictures}" else word for word in words]
    status = draw_kernels.main(["--weights", weights, "--output", str(tmp_path / "o"), *words])
    assert status == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("draw_kernels.py: ") and told in error


def test_a_data_set_of_the_config_is_drawn(tiny_options, tmp_path, pottery, capsys):
    pottery.write()
    config = tmp_path / "config.yaml"
    config.write_text(load_config(DEMO_CONFIG, pairs({**tiny_options, **pottery.options()})).dump())
    weights = make_model_file(tiny_options, tmp_path / "model.pth")
    words = ["--weights", weights, "--config-file", str(config), "--dataset", pottery.name]
    out = tmp_path / "out"
    threshold = ("--confidence-threshold", "0", "--each", "0")
    assert draw_kernels.main([*words, "--output", str(out), *threshold]) == 0, capsys.readouterr()
    assert [path.name for path in out.iterdir()] == ["mean_masks.png"]
