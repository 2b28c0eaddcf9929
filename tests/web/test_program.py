"""What the program says before it serves anything."""

import socket

import pytest

from knet.commands import web as program


@pytest.fixture
def sentence(capsys):
    """Runs the program with these words; what it says when it ends."""

    def run(*words: str) -> str:
        assert program.main(list(words)) == 1
        told = capsys.readouterr().err
        assert told.startswith("web.py: ") and told.count("\n") == 1
        return told

    return run


@pytest.fixture
def weights(tmp_path) -> str:
    path = tmp_path / "model.pth"
    path.write_bytes(b"no model")
    return str(path)


def test_weights_that_are_not_there(sentence):
    assert "nowhere.pth does not exist: correct --weights" in sentence("--weights", "nowhere.pth")


def test_a_port_that_is_taken(sentence, weights):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = sentence("--weights", weights, "--port", str(port))
    assert f"127.0.0.1:{port} cannot be served" in told and "--port" in told


def test_a_limit_of_nothing(sentence, weights):
    assert "--max-side is 0" in sentence("--weights", weights, "--max-side", "0")


def test_without_gradio(sentence, weights, monkeypatch):
    monkeypatch.setattr(program, "find_spec", lambda name: None)
    assert "pip install" in sentence("--weights", weights)
