#!/usr/bin/env python
"""The checkout's train_net.py with parts of one's own: to import a module registers what is in it.

python projects/KNet/examples/extend/train_net.py \\
    --config-file configs/demo/knet_panoptic_shapes.yaml --num-gpus 0 \\
    MODEL.KNET.NECK.NAME ConcatNeck
"""

import sys

import own_backbone  # noqa: F401
import own_kernel_head  # noqa: F401
import own_neck  # noqa: F401
import own_semantic_head  # noqa: F401
import own_task  # noqa: F401

from knet.engine.main import main

if __name__ == "__main__":
    sys.exit(main())
