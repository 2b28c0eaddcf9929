"""A step in parts is the step of so many processes."""

import numpy as np
import pytest
import torch
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from knet.checkpoint.safe_load import load_file
from knet.engine.bad_steps import CheckedTrainer
from knet.engine.processes import leave_group
from knet.errors import UsageError
from knet.modeling.kernel_head import KernelHead
from knet.modeling.point_kernel_head import PointKernelHead
from tests.engine.test_bad_steps import Model, batches
from tests.modeling.semantic.heads import small_config, training_batch
from tests.tiny_model import LAYOUT, tiny_model, training_input

HEADS = {"learned": KernelHead, "points": PointKernelHead}
SIZES = [(61, 75), (48, 64), (64, 64), (33, 80)]
NUM_THINGS = [2, 9, 0, 1]  # 9: more than there are kernels
STEPS = 3
CASES = [("learned", 1), ("points", 1), ("learned", 2)]  # and the parts of each of two processes


def batch(step: int) -> list:
    """Four images that differ in size and in their number of objects."""
    rng = np.random.default_rng(step)
    inputs = [training_input(rng, LAYOUT, size, n) for size, n in zip(SIZES, NUM_THINGS)]
    inputs[2]["sem_seg"].fill_(255)  # nothing to learn from
    return inputs


def train(head: str, *, num_parts: int, rank: int = 0, world_size: int = 1, wrap=lambda m: m):
    """The weights after some steps, and each step's total loss of this process."""
    torch.set_num_threads(1)
    model = wrap(tiny_model(kernel_head=HEADS[head]))
    batches = (batch(step)[rank::world_size] for step in range(STEPS))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    trainer = CheckedTrainer(model, batches, optimizer, max_bad=0, mixed=False, num_parts=num_parts)
    totals = []
    with EventStorage() as storage:
        for trainer.iter in range(STEPS):
            trainer.run_step()
            if comm.is_main_process():
                totals.append(storage.latest()["total_loss"][0])
            storage.step()
    return [p.detach().clone() for p in model.parameters()], totals


def process(path: str) -> None:
    exchanged = []

    def wrap(model):
        wrapped = DistributedDataParallel(model, bucket_cap_mb=1000)

        def exchange(state, bucket):
            exchanged.append(bucket.index())
            gathered = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
            return gathered.then(lambda done: done.value()[0] / comm.get_world_size())

        wrapped.register_comm_hook(None, exchange)
        return wrapped

    results = []
    for head, num_parts in CASES:
        exchanged.clear()
        rank = comm.get_rank()
        weights, totals = train(head, num_parts=num_parts, rank=rank, world_size=2, wrap=wrap)
        results.append((weights, totals, exchanged.count(0)))
    if comm.is_main_process():
        torch.save(results, path)
    leave_group()


def test_k_parts_are_k_processes(tmp_path):
    path = str(tmp_path / "results.pth")
    launch(process, 2, dist_url="auto", args=(path,))
    for (head, num_parts), theirs in zip(CASES, torch.load(path, weights_only=True)):
        weights, totals, num_exchanged = theirs
        ours, our_totals = train(head, num_parts=2 * num_parts)
        for a, b in zip(ours, weights):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        assert our_totals == pytest.approx(totals, rel=1e-6)
        assert num_exchanged == STEPS, "gradients travel once a step"

        start = list(tiny_model(kernel_head=HEADS[head]).parameters())
        assert max((a - b).abs().max() for a, b in zip(ours, start)) > 1e-3


class Recorder(torch.nn.Module):
    """A loss that is a mean over images; remembers which it was called with."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 4)
        self.calls = []

    def forward(self, batch):
        self.calls.append([sample["file_name"] for sample in batch])
        images = torch.stack([sample["image"] for sample in batch])
        return {"loss": self.layer(images).square().mean()}


def steps_of(num_parts: int, count: int = 3):
    model = Recorder()
    rng = torch.Generator().manual_seed(0)
    batches = (
        [{"image": torch.randn(3, generator=rng), "file_name": f"{i}.png"} for i in range(6)]
        for _ in range(count)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    trainer = CheckedTrainer(model, batches, optimizer, max_bad=0, mixed=False, num_parts=num_parts)
    with EventStorage(0):
        for trainer.iter in range(count):
            trainer.run_step()
    return model, optimizer


@pytest.mark.parametrize("num_parts", [2, 3, 6])
def test_means_over_images_are_those_of_the_batch(num_parts):
    whole, _ = steps_of(1)
    parts, optimizer = steps_of(num_parts)
    torch.testing.assert_close(parts.layer.weight, whole.layer.weight, rtol=0, atol=1e-6)
    assert parts.calls[0] == [f"{i}.png" for i in range(0, 6, num_parts)]
    assert {name for call in parts.calls[:num_parts] for name in call} == set(whole.calls[0])
    assert optimizer.state[parts.layer.weight]["step"] == 3


def test_one_bad_part_leaves_the_whole_step_out():
    model = Model()
    bad = [b + c for b, c in zip(batches({}, rank=0), _limited(batches({1: torch.nan}, rank=1)))]
    for b in bad:  # images 0, 2 and 1, 3
        b[1], b[2] = b[2], b[1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = CheckedTrainer(model, iter(bad), optimizer, max_bad=1, mixed=False, num_parts=2)
    with EventStorage(0):
        trainer.iter = 0
        trainer.run_step()
        before = [t.clone() for t in model.state_dict().values()]
        trainer.iter = 1
        trainer.run_step()
        assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before))
        trainer._num_bad, trainer.iter = 1, 2
        for image in bad[2][1::2]:
            image["factor"] = torch.nan
        with pytest.raises(UsageError, match=r"\(loss_square is nan; images 1_2_0.png, 1_2_1.png"):
            trainer.run_step()


def _limited(batches, count=3):
    return (batch for batch, _ in zip(batches, range(count)))


def test_an_iteration_is_a_step(train_net, tiny_options, tmp_path):
    """The loader gives whole batches, of which the checkpoint tells."""
    options = {**tiny_options, "SOLVER.IMS_PER_BATCH": 4, "SOLVER.ACCUMULATE": 2}
    options.update({"SOLVER.MAX_ITER": 3, "DATASETS.TEST": ()})
    options["DATALOADER.ASPECT_RATIO_GROUPING"] = False  # which holds images back
    assert train_net(options=options).status == 0
    checkpoint = load_file(str(tmp_path / "output" / "model_final.pth"))
    assert checkpoint["iteration"] == 2
    (process,) = checkpoint["trainer"]["hooks"]["ExactResume"]["processes"]
    assert process["done"] == {0: 12}
    states = checkpoint["trainer"]["_trainer"]["optimizer"]["state"].values()
    assert {state["step"].item() for state in states} == {3}


def test_a_semantic_model_learns_as_from_the_whole_batch():
    """Its losses are means over all pixels, whatever their labels, of crops of one size."""
    cfg = small_config("SemSegFCNHead", "SemanticKNet")
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.SEM_SEG_HEAD.NORM = "FrozenBN", "GN"
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM, cfg.MODEL.KNET.SEMANTIC.DROPOUT = 32, 0.0
    ends = []
    for num_parts in (1, 4):
        torch.manual_seed(0)
        model = build_model(cfg)
        batches = (training_batch([(64, 64)] * 4, ignored=0.5, seed=step) for step in range(STEPS))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        trainer = CheckedTrainer(
            model, batches, optimizer, max_bad=0, mixed=False, num_parts=num_parts
        )
        start = [p.detach().clone() for p in model.parameters()]
        with EventStorage(0):
            for trainer.iter in range(STEPS):
                trainer.run_step()
        ends.append(list(model.parameters()))
    for a, b in zip(*ends):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert max((a - b).abs().max() for a, b in zip(ends[0], start)) > 1e-3
