"""What a user sees: no colour codes in files, no traceback above a sentence but on demand."""

import logging
import re

import pytest

from knet.data.dataset_mapper import KNetDatasetMapper
from knet.engine import KNetTrainer
from knet.engine.logs import tidy_loggers
from knet.engine.main import main
from knet.errors import DatasetError
from tests.conftest import DEMO_CONFIG, pairs

TRACEBACK = "Traceback (most recent call last)"


@pytest.fixture
def broken(tiny_options, monkeypatch):
    """A training of which no image can be read."""

    def refuses(self, dataset_dict):
        raise DatasetError("cup.png is no image")

    monkeypatch.setattr(KNetDatasetMapper, "__call__", refuses)
    return {**tiny_options, "DATASETS.TEST": ()}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_data_is_a_sentence(workers, train_net, broken, tmp_path):
    outcome = train_net(options={**broken, "DATALOADER.NUM_WORKERS": workers})
    assert outcome.status == 1
    assert TRACEBACK not in outcome.out + outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("train_net.py: ")]
    assert line == "train_net.py: cup.png is no image"
    assert TRACEBACK in (tmp_path / "output" / "log.txt").read_text(), "kept for who looks for it"


def test_its_traceback_is_shown_on_demand(train_net, broken):
    outcome = train_net("--debug", options=broken)
    assert outcome.status == 1
    assert outcome.err.count(TRACEBACK) >= 1 and "in refuses" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("train_net.py: ")


def test_a_fault_of_the_program_keeps_its_traceback(tiny_options, monkeypatch, capsys):
    def fails(self):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(KNetTrainer, "run_step", fails)
    options = pairs({**tiny_options, "DATASETS.TEST": ()})
    with pytest.raises(ZeroDivisionError):
        main(["--config-file", DEMO_CONFIG, *options])
    out = capsys.readouterr().out
    assert "Exception during training" in out and TRACEBACK in out


def test_no_colour_codes_and_each_line_once(train_net, tiny_options, tmp_path):
    outcome = train_net(options={**tiny_options, "DATASETS.TEST": ()})
    log = (tmp_path / "output" / "log.txt").read_text()
    assert outcome.status == 0 and "MIN_SIZE_TRAIN" in log
    assert "\x1b" not in log and "\x1b" not in outcome.out
    for text in (log, outcome.out):
        assert len(re.findall("Full config saved to", text)) == 1
        assert len(re.findall("Starting training from iteration 0", text)) == 1


def test_a_terminal_keeps_its_colours(monkeypatch):
    class Terminal:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    for color, environment in (("\x1b[32mgreen\x1b[0m", None), ("green", "1")):
        terminal = Terminal()
        handler = logging.StreamHandler(terminal)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger = logging.getLogger("knet")
        logger.addHandler(handler)
        if environment:
            monkeypatch.setenv("NO_COLOR", environment)
        tidy_loggers()
        logger.warning("\x1b[32mgreen\x1b[0m")
        logger.removeHandler(handler)
        assert terminal.text.strip() == color


def test_an_output_that_is_closed_is_forgotten(tmp_path):
    """As a notebook's cell, or a test, leaves it that ran a program before."""
    logger = logging.getLogger("knet")
    with open(tmp_path / "out.txt", "w") as stream:
        handler = logging.StreamHandler(stream)
        logger.addHandler(handler)
    tidy_loggers()
    assert handler not in logger.handlers
