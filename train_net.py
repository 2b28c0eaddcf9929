#!/usr/bin/env python
"""Train or evaluate K-Net.

python train_net.py --config-file configs/knet_panoptic.yaml --num-gpus 8
python train_net.py --config-file configs/knet_panoptic.yaml --eval-only MODEL.WEIGHTS FILE
"""

import sys

from knet.engine.main import main

if __name__ == "__main__":
    sys.exit(main())
