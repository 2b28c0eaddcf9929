"""Ray's workers give what this process gives, whoever is killed. Few tests: Ray takes seconds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from knet import Predictor
from knet.collection import Engine, ModelSource, predict_collection
from knet.collection import run as run_module
from knet.collection.folder import CollectionFolder
from knet.collection.settings import Settings
from knet.collection.shard import predict_shard
from tests.collection.conftest import images_of
from tests.conftest import REPO

TOOL = str(REPO / "projects" / "KNet" / "tools" / "predict_collection.py")
TWO = Engine(workers=2, cpus_per_worker=1)


@pytest.fixture(scope="module")
def ray_session():
    """Two CPUs on this machine, for all tests of the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # the workers find the project as this process does
        patch.setenv("PYTHONPATH", os.pathsep.join([str(REPO / "projects" / "KNet"), str(REPO)]))
        import ray

        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
            logging_level="error",
        )
        yield ray
        ray.shutdown()


def shard_rows(output):
    files = sorted(Path(output, "shards").iterdir())
    assert all(file.suffix == ".parquet" for file in files)
    return [pq.read_table(file).to_pylist() for file in files]


def in_this_process(output, model_file):
    """What a single process gives for the shards of a run."""
    folder = CollectionFolder(output)
    alone = CollectionFolder.create(
        f"{output}_alone",
        {
            key: folder.settings[key]
            for key in folder.settings
            if key not in ("images", "shard_size")
        },
        folder.all_images(),
        folder.settings["shard_size"],
    )
    predictor, _ = Settings(ModelSource(model_file), tuple(folder.kinds)).predictor("cpu")
    for shard in range(alone.num_shards):
        predict_shard(predictor, alone, shard)
    return alone


def test_two_workers_one_of_which_is_killed_give_what_one_process_does(
    ray_session, model_file, image_folder, tmp_path, monkeypatch
):
    killed = tmp_path / "killed"

    class KilledOnce(run_module._Worker):
        def __call__(self, batch):
            def until_killed(sources, workers):
                yield next(Predictor.stream(self.predictor, sources, workers))
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)

            if batch["shard"][0] == 2 and not killed.exists():
                self.predictor, _ = self.settings.predictor("cpu")
                self.predictor.stream = until_killed
            return run_module._Worker.__call__(self, batch)

    monkeypatch.setattr(run_module, "_Worker", KilledOnce)
    output = str(tmp_path / "out")
    summary = predict_collection(
        [str(image_folder)],
        ModelSource(model_file),
        output,
        engine=TWO,
        kinds=["panoptic", "instance"],
        shard_size=2,
    )
    assert killed.exists()
    assert (summary.images, summary.failures, summary.shards) == (9, 1, 5)
    assert not (tmp_path / "out" / "unfinished").exists()
    alone = in_this_process(output, model_file)
    assert shard_rows(output) == shard_rows(alone.path)
    images = [row["image"] for rows in shard_rows(output) for row in rows]
    images += CollectionFolder(output).failures()["image"].to_pylist()
    assert sorted(images) == images_of(image_folder), "each image once"


def test_a_run_whose_program_is_killed_is_gone_on_with(
    ray_session, model_file, image_folder, tmp_path
):
    output = tmp_path / "out"
    listed = tmp_path / "list.txt"
    good = image_folder / "a.png"
    paths = [image_folder / f"{i:02d}.png" for i in range(60)]
    for path in paths:
        path.symlink_to(good)
    listed.write_text("\n".join(map(str, paths)))
    words = ["--weights", model_file, "--input", str(listed), "--output", str(output)]
    words += ["--workers", "1", "--cpus-per-worker", "1", "--shard-size", "1"]
    with subprocess.Popen(
        [sys.executable, TOOL, *words],
        env={**os.environ, "PYTHONPATH": str(REPO / "projects" / "KNet")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as program:
        end = time.monotonic() + 120
        while not (output / "shards" / "00000.parquet").exists() and time.monotonic() < end:
            assert program.poll() is None
            time.sleep(0.02)
        program.kill()
    time.sleep(1)  # its worker may finish the shard that it is at
    done = {file: file.stat().st_mtime_ns for file in (output / "shards").iterdir()}
    assert 0 < len(done) < 60
    summary = predict_collection(
        [str(listed)], ModelSource(model_file), str(output), engine=TWO, shard_size=1
    )
    assert summary.shards_now == 60 - len(done) and summary.failures == 0
    assert all(file.stat().st_mtime_ns == when for file, when in done.items())
    rows = [row for rows in shard_rows(output) for row in rows]
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert all(row["panoptic"] == rows[0]["panoptic"] for row in rows)


def test_a_worker_that_cannot_go_on_ends_the_run_in_a_sentence(
    ray_session, model_file, image_folder, tmp_path, monkeypatch
):
    class OnFullDisk(run_module._Worker):
        def _predict(self, shard):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "_Worker", OnFullDisk)
    sentence = (
        r"cannot go on \(OSError: \[Errno 28\] No space left on device\): mend that and start"
    )
    with pytest.raises(run_module.UsageError, match=sentence):
        predict_collection(
            [str(image_folder)], ModelSource(model_file), str(tmp_path / "out"), engine=TWO
        )
