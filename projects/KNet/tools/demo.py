#!/usr/bin/env python
"""The command ``knet predict`` from a checkout."""

import sys

from knet.commands.demo import main

if __name__ == "__main__":
    sys.exit(main())
