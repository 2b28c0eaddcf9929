#!/usr/bin/env python
"""The command ``knet draw-kernels`` from a checkout."""

import sys

from knet.commands.draw_kernels import main

if __name__ == "__main__":
    sys.exit(main())
