"""A page to try a model on one's own picture, in the browser.

knet web --weights model_final.pth
"""

import argparse
import socket
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Optional, Sequence

from ..encoding import write_any_text
from ..errors import DatasetError, UsageError
from ..predictor import Predictor
from .weights_file import need_weights

INTERRUPTED = 130


def parse_args(
    argv: Optional[Sequence[str]] = None, program: Optional[str] = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program,
        description="A page to try a model on one's own picture. Ctrl-C ends it.",
    )
    add = parser.add_argument
    add("--weights", required=True, help="model file")
    add("--config-file", help="of the model, where the weights do not carry it")
    add("--host", default="127.0.0.1", help="address; 0.0.0.0: for other machines (127.0.0.1)")
    add("--port", type=int, default=7860, help="(7860)")
    add("--max-side", type=int, default=1600, help="larger pictures are shrunk to it (1600)")
    add("--max-megapixels", type=float, default=50, help="larger pictures are refused (50)")
    add("--max-megabytes", type=float, default=30, help="larger files are refused (30)")
    add(
        "--share",
        action="store_true",
        help="also a public address, by a tunnel that Gradio downloads: anyone may use it",
    )
    add("--device", help="cpu, cuda, cuda:1, ...; a GPU if there is one")
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values, come last")
    return parser.parse_args(argv)


def main(argv: Optional[Sequence[str]] = None, program: str = "web.py") -> int:
    """Serve until Ctrl-C; returns the exit status.

    Args:
        argv: the words of the command line; None: this program's.
        program: its name, for what it says.
    """
    args = parse_args(argv, program)
    write_any_text()
    try:
        check_arguments(args)
        serve(args)
        return 0
    except (UsageError, DatasetError) as error:
        print(f"{program}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 1


def check_arguments(args: argparse.Namespace) -> None:
    """
    Raises:
        UsageError: an option cannot work.
    """
    need_weights(args.weights)
    for name in ("port", "max_side", "max_megapixels", "max_megabytes"):
        if getattr(args, name) <= 0:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is {getattr(args, name)}: give a number above 0")
    try:
        with socket.create_server((args.host, args.port)):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"{args.host}:{args.port} cannot be served ({reason}): give another --host or --port"
        ) from error
    if find_spec("gradio") is None:
        raise UsageError("the page needs Gradio: pip install 'gradio>=6', or knet with [web]")


def serve(args: argparse.Namespace) -> None:
    predictor = Predictor(args.weights, config=args.config_file, device=args.device, opts=args.opts)
    from ..web.page import LOOK, build_page  # Gradio takes seconds
    from ..web.segmenting import Segmenter

    segmenter = Segmenter(predictor, args.max_side, round(args.max_megapixels * 1e6))
    count = len(predictor.classes)
    title = f"{Path(args.weights).name}, {count} class{'es' if count > 1 else ''}"
    page = build_page(segmenter, title)
    _, address, _ = page.launch(
        server_name=args.host,
        server_port=args.port,
        share=args.share,
        max_file_size=round(args.max_megabytes * 2**20),
        state_session_capacity=100,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        show_error=False,
        quiet=True,
        prevent_thread_lock=True,
        **LOOK,
    )
    print(f"the page is at {page.share_url or address}, Ctrl-C ends it", flush=True)
    try:
        threading.Event().wait()
    finally:
        page.close(verbose=False)
