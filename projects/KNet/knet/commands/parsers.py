"""The parser of a program whose docstring is its help."""

import argparse
from typing import Optional

__all__ = ["parser_of"]


def parser_of(doc: str, program: Optional[str]) -> argparse.ArgumentParser:
    """
    Args:
        doc: of the program: a line that says what it does, and what stands below the options.
        program: its name in messages; that of the file that runs if None.
    """
    text, _, epilog = doc.partition("\n\n")
    return argparse.ArgumentParser(
        prog=program,
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
