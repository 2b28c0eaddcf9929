#!/usr/bin/env python
"""The command ``knet demo`` from a checkout."""

import sys

from knet.commands.train_shapes import main

if __name__ == "__main__":
    sys.exit(main())
