"""A window for pictures, by matplotlib, with whatever the machine has to show windows."""

import numpy as np

from ..errors import UsageError

__all__ = ["Window"]


class Window:
    """Shows one picture after another until it is closed, by its button, Escape or q."""

    def __init__(self, title: str):
        """
        Raises:
            UsageError: there is no screen, or nothing (Tk, Qt, GTK) that opens windows on it.
        """
        # chooses what can open windows, and what cannot where there is none
        from matplotlib import pyplot

        self._pyplot = pyplot
        figure = self._figure = pyplot.figure(title, figsize=(10, 7.5))
        if figure.canvas.required_interactive_framework is None:
            pyplot.close(figure)
            raise UsageError(
                "there is no screen to show results on (or no Tk or Qt for Python): give --output"
            )
        figure.canvas.mpl_disconnect(figure.canvas.manager.key_press_handler_id)
        self._axes = figure.add_axes((0, 0, 1, 1))
        self._axes.axis("off")
        self._picture = None
        self.is_open = True
        figure.canvas.mpl_connect("close_event", self._on_close)
        figure.canvas.mpl_connect("key_press_event", self._on_key)
        self._key_pressed = False
        figure.show()

    def show(self, picture: np.ndarray, wait: bool = False) -> bool:
        """
        Args:
            picture: (H, W, 3) uint8 RGB.
            wait: for a key.

        Returns:
            whether the window is still open.
        """
        height, width = picture.shape[:2]
        if self._picture is None or self._picture.get_size() != (height, width):
            self._axes.clear()
            self._axes.axis("off")
            self._picture = self._axes.imshow(picture)
        else:
            self._picture.set_data(picture)
        self._figure.canvas.draw_idle()
        self._key_pressed = False
        self._figure.canvas.start_event_loop(0.001)
        while wait and self.is_open and not self._key_pressed:
            self._figure.canvas.start_event_loop(0.05)
        return self.is_open

    def close(self) -> None:
        self._pyplot.close(self._figure)

    def _on_close(self, event) -> None:
        self.is_open = False

    def _on_key(self, event) -> None:
        self._key_pressed = True
        if event.key in ("escape", "q"):
            self.is_open = False
