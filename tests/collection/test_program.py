"""The program for collections: what a user gets wrong is told in a sentence, before Ray starts."""

import socket
import sys
import threading
import time

import pytest

from tests.visualization.test_programs import load


@pytest.fixture
def program(model_file, image_folder, tmp_path, monkeypatch, capsys):
    """Calls it with some flags changed; returns its sentence."""
    module = load("predict_collection")
    monkeypatch.setattr(module, "setup_logger", lambda **_: None)  # it would outlive the test

    def run(*more, **changes):
        flags = {"--weights": model_file, "--input": image_folder, "--output": tmp_path / "out"}
        flags.update({f"--{name}": value for name, value in changes.items()})
        words = [str(word) for flag in flags.items() for word in flag] + list(more)
        capsys.readouterr()
        assert module.main(words) == 1
        (sentence,) = capsys.readouterr().err.splitlines()
        assert sentence.startswith("predict_collection.py: ")
        return sentence

    return run


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"input": "nowhere"}, "nowhere does not exist"),
        ({"input": "*.nothing"}, "no file matches *.nothing"),
        ({"weights": "none.pth"}, "none.pth"),
        ({"score-threshold": "30"}, "the score threshold is 30.0: give a number from 0 to 1"),
        ({"shard-size": "0"}, "the shard size is 0"),
        ({"batch-size": "0"}, "batch_size is 0"),
        ({"workers": "0"}, "the number of workers is 0"),
        ({"gpus-per-worker": "-1"}, "the number of gpus per worker is -1.0"),
        ({"address": "cluster"}, "the address of a cluster is auto or host:port, not 'cluster'"),
        ({"address": "ray://head:10001"}, "auto or host:port, not 'ray://head:10001'"),
    ],
)
def test_wrong_flags_end_in_one_sentence(program, tmp_path, monkeypatch, changes, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in program(**changes)


@pytest.mark.parametrize("in_a_lock", [False, True])
def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, in_a_lock):
    def interrupted(args):
        try:
            raise KeyboardInterrupt
        finally:
            if in_a_lock:  # which was waited for
                threading.Lock().release()

    module = load("predict_collection")
    monkeypatch.setattr(module, "setup_logger", lambda **_: None)
    monkeypatch.setattr(module, "predict", interrupted)
    assert module.main(["--weights", "a.pth", "--input", "b", "--output", "c"]) == 130
    assert capsys.readouterr().err == "predict_collection.py: stopped; the same command goes on\n"


def test_a_list_without_the_column_ends_in_one_sentence(program, tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("file,label\na.png,3\n")
    assert "has no column 'image' but file, label" in program(input=path)


def test_a_cluster_that_is_not_there_is_found_quickly(program):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        start = time.monotonic()
        assert f"no Ray cluster answers at {address}" in program(address=address)
    assert time.monotonic() - start < 20


def test_without_ray_the_sentence_says_what_to_install(program, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "knet.collection", raising=False)
    assert "pip install 'knet-detectron2[ray]'" in program()


def test_more_than_the_machine_has_ends_in_one_sentence(program, monkeypatch):
    import ray

    # what Ray would say, without waiting for it
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    sentence = program("--cpus-per-worker", "2", workers="3")
    assert "the workers need 6 CPUs together, there are 4: give fewer" in sentence
    assert "need 1 GPUs together, there are 0" in program("--gpus-per-worker", "1")
