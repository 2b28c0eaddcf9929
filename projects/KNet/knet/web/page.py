"""The page: what is on it, and what happens at each click."""

import html
import os
import tempfile
from pathlib import Path
from typing import Callable, List, Optional

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
import gradio as gr
from gradio.processing_utils import save_file_to_cache

from ..errors import DatasetError, UsageError
from .downloads import write_files
from .segmenting import Found, Segmenter, Settings
from .view import COLUMNS, View

__all__ = ["LOOK", "build_page"]

SECONDS_KEPT = 3600  # results and files of a visit
WAITING = 32  # visitors who may wait for the model

# The visitor's own fonts: nothing is loaded from other machines
LOOK = {
    "theme": gr.themes.Default(
        primary_hue="blue",
        font=["system-ui", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(body_text_color_subdued="*neutral_500", block_info_text_color="*neutral_500"),
    "css": (Path(__file__).parent / "page.css").read_text(encoding="utf-8"),
}
HINT = '<div class="details"><i>Click a segment in the picture, or its row in the table.</i></div>'


def build_page(segmenter: Segmenter, title: str) -> gr.Blocks:
    """The page of a model.

    Args:
        segmenter: of it.
        title: what the visitor is told about it, plain text.
    """
    return _Page(segmenter, title).blocks


class _Page:
    """Lays the page out; its methods are what the visitor's actions call."""

    def __init__(self, segmenter: Segmenter, title: str):
        self.segmenter = segmenter
        with gr.Blocks(
            title="K-Net", analytics_enabled=False, delete_cache=(SECONDS_KEPT // 4, SECONDS_KEPT)
        ) as self.blocks:
            about = f"<h1>K-Net</h1><p>{html.escape(title)}</p>"
            gr.HTML(f'<div class="title">{about}</div>', padding=False)
            self.view = gr.State(None, time_to_live=SECONDS_KEPT)
            with gr.Row():
                with gr.Column(scale=2, min_width=300, elem_id="left"):
                    self._add_inputs()
                with gr.Column(scale=3, min_width=340, elem_id="right"):
                    self._add_outputs()
            self._connect()
        self.blocks.queue(max_size=WAITING, default_concurrency_limit=4, api_open=False)

    def _add_inputs(self) -> None:
        self.file = gr.Image(
            label="Your picture",
            type="filepath",
            sources=["upload", "webcam", "clipboard"],
            height=300,
            elem_id="picture",
            webcam_options=gr.WebcamOptions(mirror=False),
        )
        # of any file, not of those alone that Gradio reads: K-Net says why it cannot
        self.file.preprocess = lambda payload: None if payload is None else payload.path
        with gr.Column(elem_id="settings"):
            self._add_settings()

    def _add_settings(self) -> None:
        kinds, start = self.segmenter.kinds, self.segmenter.defaults
        self.kind = gr.Radio(
            [(kind.capitalize(), kind) for kind in kinds],
            value=kinds[0],
            label="Task",
            visible=len(kinds) > 1,
            elem_id="task",
        )
        part = {"minimum": 0, "maximum": 1, "step": 0.05}
        self.score = gr.Slider(
            label="Score threshold",
            info="Objects of a lower score are left out.",
            value=start.score_threshold,
            visible=kinds[0] != "semantic",
            elem_id="score",
            **part,
        )
        self.overlap = gr.Slider(
            label="Overlap threshold",
            info="A segment that keeps less of its own area, beside better ones, is left out.",
            value=start.overlap_threshold,
            visible=kinds[0] == "panoptic" and self.segmenter.has_thresholds,
            elem_id="overlap",
            **part,
        )
        self.opacity = gr.Slider(label="Opacity", value=0.5, elem_id="opacity", **part)
        self.labels = gr.Checkbox(True, label="Names of classes", elem_id="labels")
        self.button = gr.Button("Segment", variant="primary", elem_id="segment")

    def _add_outputs(self) -> None:
        self.picture = gr.Image(
            label="Result",
            format="png",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="result",
        )
        self.summary = gr.HTML(visible=False, padding=False, elem_id="summary")
        self.details = gr.HTML(HINT, visible=False, padding=False, elem_id="details")
        self.table = gr.Dataframe(
            headers=list(COLUMNS),
            datatype=["number", "str", "str", "number", "str"],
            interactive=False,
            visible=False,
            max_height=260,
            buttons=[],
            elem_id="table",
        )
        with gr.Row():
            names = {"picture": "Picture", "png": "PNG of ids", "json": "COCO json"}
            self.files = {
                key: gr.DownloadButton(
                    f"\u2913 {name}", size="sm", min_width=90, visible=False, elem_id=f"get-{key}"
                )
                for key, name in names.items()
            }

    def _connect(self) -> None:
        settings = [self.kind, self.score, self.overlap, self.opacity, self.labels]
        chosen = [self.picture, self.details]
        files = list(self.files.values())
        shown = [self.view, *chosen, self.summary, self.table, *files]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        redraw = {"trigger_mode": "always_last", "api_visibility": "private"}
        model = {
            "concurrency_limit": 1,
            "concurrency_id": "model",
            "show_progress_on": self.picture,
        }
        self.kind.input(self.fit_sliders, self.kind, [self.score, self.overlap], **quiet)
        new = gr.on(
            [self.file.input, self.button.click],
            self.start,
            [self.file, *settings],
            shown,
            api_visibility="private",
            trigger_mode="always_last",
            **model,
        )
        anew = gr.on(
            [self.kind.input, self.score.release, self.overlap.release],
            self.change,
            [self.view, *settings],
            shown,
            **redraw,
            **model,
        )
        other_look = gr.on(
            [self.opacity.release, self.labels.input],
            self.change,
            [self.view, *settings],
            shown,
            show_progress="hidden",
            **redraw,
        )
        for each in (new, anew, other_look):
            each.success(self.make_files, self.view, files, **quiet)
        self.picture.select(self.choose_pixel, self.view, chosen, **quiet)
        self.table.select(self.choose_row, self.view, chosen, **quiet)

    # ------------------------------------------------------------------------------- the actions

    def start(self, path: Optional[str], *settings):
        """A new picture, or none: the visitor has removed it, or turned to the camera."""
        if path is None:
            return self._nothing("Upload a picture, or take one.")

        def run(wanted: Settings) -> Found:
            source, size = self.segmenter.read(path)
            return self.segmenter.segment(source, wanted, os.path.basename(path), size)

        return self._show(run, *settings)

    def change(self, view: Optional[View], *settings):
        """Other settings for the picture that is shown, if there is one."""
        if view is None:
            return [gr.skip()] * (5 + len(self.files))

        def run(wanted: Settings) -> Found:
            found = view.found
            if not wanted.changes_result(found.settings):
                return found
            return self.segmenter.segment(found.source, wanted, found.name, found.original_size)

        return self._show(run, *settings)

    def _show(
        self,
        run: Callable[[Settings], Found],
        kind: str,
        score: float,
        overlap: float,
        opacity: float,
        labels: bool,
    ):
        try:
            found = run(Settings(kind, score, overlap))
        except (DatasetError, UsageError) as error:
            return self._nothing(f"{str(error)[:1].upper()}{str(error)[1:]}.", is_error=True)
        view = View(found, self.segmenter, score, opacity, labels)
        return (
            view,
            view.picture,
            gr.HTML(HINT, visible=True),
            gr.HTML(view.summary(), visible=True),
            gr.Dataframe(view.rows(), visible=True),
            *self._no_files(),
        )

    def _no_files(self) -> List:
        """Those of the result before may be had no more; :meth:`make_files` shows the new ones."""
        return [gr.DownloadButton(visible=False) for _ in self.files]

    def _nothing(self, text: str, is_error: bool = False):
        """No result, and a sentence in its place."""
        style = "details error" if is_error else "details"
        sentence = f'<div class="{style}">{html.escape(text)}</div>'
        return (
            None,
            None,
            gr.HTML(visible=False),
            gr.HTML(sentence, visible=True),
            gr.Dataframe(visible=False),
            *self._no_files(),
        )

    def fit_sliders(self, kind: str):
        """Show the thresholds that the task has."""
        has_overlap = kind == "panoptic" and self.segmenter.has_thresholds
        return gr.Slider(visible=kind != "semantic"), gr.Slider(visible=has_overlap)

    def make_files(self, view: Optional[View]):
        """Fill the buttons for downloads, or hide them."""
        if view is None:
            return [gr.DownloadButton(visible=False) for _ in self.files]
        with tempfile.TemporaryDirectory() as folder:
            paths = write_files(view, Path(folder))
            kept = {  # Gradio's cache, which it clears
                key: save_file_to_cache(path, self.files[key].GRADIO_CACHE)
                for key, path in paths.items()
            }
        return [gr.DownloadButton(value=kept.get(key), visible=key in kept) for key in self.files]

    def choose_pixel(self, view: Optional[View], event: gr.SelectData):
        if view is None:
            return gr.skip(), gr.skip()
        x, y = event.index
        return self._choose(view, view.segment_at(x, y))

    def choose_row(self, view: Optional[View], event: gr.SelectData):
        if view is None or not event.row_value or not event.row_value[0]:
            return gr.skip(), gr.skip()
        return self._choose(view, int(event.row_value[0]) - 1)  # the visitor may have sorted them

    def _choose(self, view: View, chosen: Optional[int]):
        picture = view.picture if chosen is None else view.picture_with(chosen)
        return picture, view.details(chosen)
