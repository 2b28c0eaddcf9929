"""A window, on a virtual screen."""

import os
import shutil
import subprocess
import sys

import pytest
from matplotlib import pyplot

from knet.errors import UsageError
from knet.visualization.window import Window

PROGRAM = """
import numpy as np
from matplotlib.backend_bases import CloseEvent, KeyEvent

from knet.visualization.window import Window

window = Window("K-Net")
canvas = window._figure.canvas


def soon(event):
    timer = canvas.new_timer(interval=100)
    timer.add_callback(lambda: canvas.callbacks.process(event.name, event))
    timer.single_shot = True
    timer.start()
    return timer


def picture(value, size):
    return np.full((*size, 3), value, np.uint8)


assert window.show(picture(200, (60, 80)))
canvas.draw()
assert np.asarray(canvas.buffer_rgba())[200, 500, 0] == 200
assert window.show(picture(90, (80, 60))), "of another size"
canvas.draw()
assert np.asarray(canvas.buffer_rgba())[375, 500, 0] == 90
timer = soon(KeyEvent("key_press_event", canvas, "a"))
assert window.show(picture(0, (60, 80)), wait=True), "a key goes on"
timer = soon(KeyEvent("key_press_event", canvas, "escape"))
assert not window.show(picture(0, (60, 80)), wait=True), "Escape ends"
window.close()

window = Window("K-Net")
canvas = window._figure.canvas
timer = soon(CloseEvent("close_event", canvas))
assert not window.show(picture(0, (60, 80)), wait=True), "so does its button"
print("seen")
"""


@pytest.fixture
def screen():
    """The DISPLAY of a virtual screen."""
    if not shutil.which("Xvfb"):
        pytest.skip("there is no virtual screen (Xvfb) here")
    words = ["Xvfb", "-displayfd", "1", "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        yield f":{server.stdout.readline().decode().strip()}"
        server.terminate()


def run(program, **env):
    without = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    env = {key: value for key, value in os.environ.items() if key not in without} | env
    words = [sys.executable, "-c", program]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=240)


def test_pictures_are_shown_until_it_is_closed(screen):
    pytest.importorskip("tkinter", reason="this Python has no Tk")
    shown = run(PROGRAM, DISPLAY=screen)
    assert shown.stdout.endswith("seen\n"), shown.stderr


def test_without_a_screen_a_sentence_says_what_to_do():
    pyplot.switch_backend("agg")  # what matplotlib takes then
    with pytest.raises(UsageError, match=r"there is no screen .*: give --output"):
        Window("K-Net")
    assert pyplot.get_fignums() == []
