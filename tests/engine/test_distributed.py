"""Two workers (gloo, CPU) give the gradients that the method defines for them."""

import torch
from detectron2.engine import launch
from detectron2.structures import BitMasks, Instances
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from knet.engine.processes import leave_group
from knet.modeling.normalizers import Normalizer, each_process_alone
from tests.parity.recorded import LEVELS, THINGS, build_model, shapes

PADDED = (64, 64)


class HeadLosses(nn.Module):
    """The model behind the pyramid, as one module that DDP can wrap."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = build_model()

    def forward(self, features, batch):
        stages, semantic_logits = self.model.predict(features)
        targets = self.model.target_builder(batch, PADDED, torch.device("cpu"))
        return self.model.losses(stages, semantic_logits, targets)


def inputs_of(rank: int):
    """Worker 0 has three things and a stuff class, worker 1 nothing at all."""
    generator = torch.Generator().manual_seed(rank + 1)
    features = {
        name: torch.randn(
            1, 32, *(side // shapes()[name].stride for side in PADDED), generator=generator
        )
        for name in LEVELS
    }
    sem_seg = torch.full(PADDED, 255)
    masks = torch.zeros((0, *PADDED), dtype=torch.bool)
    if rank == 0:
        sem_seg[:20] = THINGS + 1
        masks = torch.rand((3, *PADDED), generator=generator) > 0.5
    instances = Instances(PADDED)
    instances.gt_classes = torch.arange(len(masks))
    instances.gt_masks = BitMasks(masks)
    return features, [{"instances": instances, "sem_seg": sem_seg}]


def train(path):
    torch.set_num_threads(1)
    rank = comm.get_rank()
    published, device = Normalizer("process"), torch.device("cpu")
    assert published.averaged([4, 0][rank], device) == 2
    assert published.averaged(0, device) == 1
    if rank == 0:  # the other one has nothing to say
        with each_process_alone():
            assert published.averaged(4, device) == 4
            assert Normalizer("batch").averaged(4, device) == 4
            assert Normalizer("batch").own(4, device) is None
    module = DistributedDataParallel(HeadLosses())  # would complain of unused parameters
    for _ in range(2):  # unused parameters would be found in the second step
        module.zero_grad()
        sum(module(*inputs_of(rank)).values()).backward()
    if rank == 0:
        torch.save([p.grad for p in module.module.parameters()], path)


def worker(path):
    train(path)
    leave_group()


def test_two_workers_average_gradients_and_positives(tmp_path, monkeypatch):
    launch(worker, 2, dist_url="auto", args=(str(tmp_path / "gradients.pt"),))
    gradients = torch.load(tmp_path / "gradients.pt", weights_only=True)

    # in one process: both images' losses, each with the mean of the positive counts, 4 and 0
    monkeypatch.setattr(Normalizer, "averaged", lambda self, count, device: 2)
    module = HeadLosses()
    for rank in range(2):
        (sum(module(*inputs_of(rank)).values()) / 2).backward()
    for (name, parameter), gradient in zip(module.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
