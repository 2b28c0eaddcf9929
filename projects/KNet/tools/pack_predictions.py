#!/usr/bin/env python
"""The command ``knet pack`` from a checkout."""

import sys

from knet.commands.pack_predictions import main

if __name__ == "__main__":
    sys.exit(main())
