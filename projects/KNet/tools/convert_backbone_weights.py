#!/usr/bin/env python
"""The command ``knet convert-backbone`` from a checkout."""

import sys

from knet.commands.convert_backbone_weights import main

if __name__ == "__main__":
    sys.exit(main())
