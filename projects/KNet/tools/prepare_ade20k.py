#!/usr/bin/env python
"""The command ``knet prepare-ade20k`` from a checkout."""

import sys

from knet.commands.prepare_ade20k import main

if __name__ == "__main__":
    sys.exit(main())
