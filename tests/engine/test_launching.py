"""Who has started a process, and as which of how many: options, torchrun, SLURM."""

import pytest
from detectron2.engine import default_argument_parser

from knet.engine.launching import ALONE, Place, find_place
from knet.errors import UsageError

TORCHRUN = {
    **{"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "gpu1", "MASTER_PORT": "29500"},
}
# as in a batch script, and as srun adds to it for a task
BATCH = {
    **{"SLURM_JOB_ID": "40007", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
    **{"SLURM_NTASKS_PER_NODE": "2", "SLURM_TASKS_PER_NODE": "2(x2)"},
    **{"SLURM_NODELIST": "gpu[07-08]", "SLURM_JOB_NODELIST": "gpu[07-08]"},
}
TASK = {
    **BATCH,
    **{"SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
    **{"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"},
}
ONE_A_MACHINE = {
    **TASK,
    **{"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"},
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "0"},
}


def place(environ=(), *words: str) -> Place:
    return find_place(default_argument_parser().parse_args(list(words)), dict(environ))


def test_without_anything_a_process_is_alone():
    assert place() == ALONE and ALONE.rank == 0 and ALONE.world_size == 1


def test_options_of_detectron2_are_its_own():
    words = ("--num-machines", "3", "--machine-rank", "2", "--dist-url", "tcp://a:1")
    assert place((), "--num-gpus", "8", *words) == Place("", 3, 2, "tcp://a:1")
    assert place((), "--dist-url", "tcp://a:1").url == "tcp://a:1"
    on_cpus = place((), "--num-gpus", "0", *words)
    assert (on_cpus.rank, on_cpus.world_size, on_cpus.url) == (2, 3, "tcp://a:1")


def test_torchrun():
    found = place(TORCHRUN, "--num-gpus", "2", "--num-machines", "2", "--machine-rank", "1")
    assert found == place(TORCHRUN) == Place("torchrun", 2, 1, "env://", 1, 2)
    assert found.rank == 3 and found.world_size == 4
    alone = {**TORCHRUN, "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}
    assert place(alone) == ALONE
    assert place({"RANK": "1", "WORLD_SIZE": "2"}) == ALONE, "not torchrun's, which sets all"


def test_srun():
    found = place(TASK)
    assert found == Place("srun", 2, 1, "tcp://gpu07:12008", 1, 2) and found.rank == 3
    assert place({**TASK, **TORCHRUN}).starter == "torchrun", "srun torchrun ..."
    own = {**TASK, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "7"}
    assert place(own).url == "tcp://10.0.0.1:7"


@pytest.mark.parametrize(
    "environ",
    [
        BATCH,  # python in the script, without srun
        {**BATCH, "SLURM_STEP_ID": "4294967290"},  # in the shell of salloc
        {**TASK, "SLURM_STEP_NUM_TASKS": "1"},  # SLURM_NTASKS is still the job's
    ],
)
def test_a_process_of_a_job_that_srun_has_not_started_among_others_is_alone(environ):
    assert place(environ) == ALONE


def test_one_task_a_machine_starts_the_processes_of_its_gpus():
    url = "tcp://gpu07:12008"
    assert place(ONE_A_MACHINE, "--num-gpus", "8") == Place("", 2, 1, url)
    words = ("--num-gpus", "8", "--num-machines", "2", "--machine-rank", "1")
    assert place(ONE_A_MACHINE, *words) == Place("", 2, 1, url)
    assert place(ONE_A_MACHINE, *words, "--dist-url", "tcp://b:2").url == "tcp://b:2"
    assert place(ONE_A_MACHINE, "--num-gpus", "0") == Place("srun", 2, 1, url)


@pytest.mark.parametrize(
    "nodes, host",
    [
        ("gpu[07-08,11]", "gpu07"),
        ("a1,b[2-3]", "a1"),
        ("r[1-2]n[03,05]", "r1n03"),
        ("x-y.z", "x-y.z"),
    ],
)
def test_the_first_machine_of_a_list(nodes, host):
    assert place({**TASK, "SLURM_STEP_NODELIST": nodes}).url == f"tcp://{host}:12008"


@pytest.mark.parametrize(
    "environ, words, told",
    [
        (TORCHRUN, ("--num-gpus", "4"), "torchrun has started 2 processes.*--nproc-per-node 4"),
        (TORCHRUN, ("--num-machines", "4"), "--num-machines 4, but torchrun"),
        (TORCHRUN, ("--machine-rank", "2"), "--machine-rank 2, but torchrun"),
        (TORCHRUN, ("--dist-url", "tcp://a:1"), "leave --dist-url out"),
        ({**TORCHRUN, "WORLD_SIZE": "5"}, (), "same --nproc-per-node"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "0"}, (), "same --nproc-per-node"),
        ({**TORCHRUN, "RANK": "x"}, (), "variable RANK is 'x'"),
        (TASK, ("--num-gpus", "4"), "srun has started 2 processes.*--ntasks-per-node=4"),
        (TASK, ("--num-machines", "3"), "--num-machines 3, but srun"),
        (ONE_A_MACHINE, ("--num-gpus", "8", "--num-machines", "3"), "--num-machines 3, but srun"),
        ({**TASK, "SLURM_STEP_TASKS_PER_NODE": "3,1"}, (), "is 3,1 for 4 tasks"),
        ({**TASK, "SLURM_LOCALID": "0"}, (), "--distribution=block"),
        ((), ("--num-machines", "2", "--machine-rank", "2"), "it is 0 to 1"),
        ((), ("--machine-rank", "1"), "of --num-machines 1 it is 0 to 0"),
    ],
)
def test_contradictions_are_told(environ, words, told):
    with pytest.raises(UsageError, match=told):
        place(environ, *words)
