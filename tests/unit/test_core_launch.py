"""Rank detection: what each launcher's variables mean, whose count when several are set, and what is refused."""

from __future__ import annotations

import pytest

from stormbench.core.errors import UserError
from stormbench.core.hostlist import expand, expand_counts, fold
from stormbench.core.launch import LAUNCH_ID, LAUNCHERS, detect, rank_variable, scheduler_job

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2",
            "MASTER_ADDR": "node7", "MASTER_PORT": "29511", "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"}  # fmt: skip
BATCH = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "6", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
         "SLURM_TASKS_PER_NODE": "2(x3)", "SLURM_JOB_NODELIST": "nid[000009-000011]", "SLURM_NODELIST": "nid[000009-000011]"}  # fmt: skip
SRUN = {**BATCH, "SLURM_PROCID": "5", "SLURM_LOCALID": "0", "SLURM_NODEID": "2", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_STEP_TASKS_PER_NODE": "3,2,1", "SLURM_STEP_NODELIST": "nid[000009-000011]", "SLURM_RESTART_COUNT": "2"}  # fmt: skip
OPENMPI = {"OMPI_COMM_WORLD_RANK": "6", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
           "PMIX_RANK": "6", "PMIX_NAMESPACE": "prterun-node1-99@1"}  # fmt: skip
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
PALS = {"PALS_RANKID": "13", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "12", "PALS_NODEID": "1", "PALS_APID": "8e7f", "PMI_RANK": "13",
        "PMI_SIZE": "24", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "12"}  # fmt: skip
MVAPICH = {"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_LOCAL_RANK": "0", "MV2_COMM_WORLD_LOCAL_SIZE": "1",
           "MPIRUN_ID": "812"}  # fmt: skip
JSRUN = {"JSM_NAMESPACE_RANK": "7", "JSM_NAMESPACE_SIZE": "12", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_LOCAL_SIZE": "6",
         "LSB_JOBID": "88", "PMIX_NAMESPACE": "3", "LSB_MCPU_HOSTS": "batch1 1 h01 42 h02 42"}  # fmt: skip
FLUX = {"FLUX_TASK_RANK": "3", "FLUX_JOB_SIZE": "4", "FLUX_TASK_LOCAL_ID": "1", "FLUX_JOB_NNODES": "2", "FLUX_JOB_ID": "f2a",
        "PMI_RANK": "3", "PMI_SIZE": "4"}  # fmt: skip


def place(environ: dict[str, str]) -> tuple[object, ...]:
    found = detect(environ)
    return found.launcher, found.rank, found.world_size, found.local_rank, found.local_size, found.n_nodes, found.node_rank


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("none", 0, 1, 0, 1, 1, 0)),
        (TORCHRUN, ("torchrun", 5, 8, 1, 4, 2, 1)),
        (SRUN, ("slurm", 5, 6, 0, 1, 3, 2)),
        (OPENMPI, ("openmpi", 6, 8, 2, 4, 2, None)),
        (HYDRA, ("mpich", 3, 4, 1, 2, 2, None)),
        (PALS, ("pals", 13, 24, 1, 12, 2, 1)),
        (MVAPICH, ("mvapich", 1, 2, 0, 1, 2, None)),
        (JSRUN, ("jsrun", 7, 12, 1, 6, 2, None)),
        (FLUX, ("flux", 3, 4, 1, None, 2, None)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, ("mpich", 1, 2, None, None, None, None)),
    ],
)
def test_each_launcher_tells_the_place(environ: dict[str, str], expected: tuple[object, ...]) -> None:
    assert place(environ) == expected


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        ({**SRUN, **TORCHRUN}, "torchrun"),
        ({**OPENMPI, **TORCHRUN}, "torchrun"),
        ({**SRUN, **OPENMPI}, "openmpi"),
        ({**SRUN, **HYDRA}, "mpich"),
        ({**SRUN, **FLUX}, "flux"),
        ({**OPENMPI, **JSRUN}, "jsrun"),
        ({**SRUN, "PMI_RANK": "5", "PMI_SIZE": "6", "PALS_RANKID": "5", "PALS_APID": "x"}, "slurm"),
        ({**SRUN, "PMIX_RANK": "5", "PMIX_NAMESPACE": "slurm.pmix.4711.1"}, "slurm"),
        ({**BATCH, **OPENMPI}, "openmpi"),
    ],
)
def test_of_nested_launchers_the_innermost_counts(environ: dict[str, str], launcher: str) -> None:
    assert detect(environ).launcher == launcher


def test_srun_counts_inside_a_script_that_mpirun_started_once() -> None:
    once = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"}
    assert place({**SRUN, **once})[:3] == ("slurm", 5, 6)


@pytest.mark.parametrize(
    "shell",
    [
        BATCH,
        {**BATCH, "SLURM_STEP_ID": "4294967291"},
        {**BATCH, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"},
        {"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4"},
    ],
    ids=["batch script", "batch step", "interactive step", "salloc"],
)
def test_the_shell_of_a_slurm_job_is_one_process(shell: dict[str, str]) -> None:
    assert place(shell)[:3] == ("none", 0, 1)
    assert "slurm-4711" in detect(shell).evidence


def test_a_container_given_only_rank_and_size_of_slurm_is_still_a_task() -> None:
    assert place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"})[:4] == ("slurm", 0, 4, 0)


def test_a_smaller_step_does_not_take_the_jobs_layout() -> None:
    small = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}
    found = detect(small)
    assert (found.world_size, found.local_size, found.n_nodes, found.hosts) == (2, None, None, ())


def test_hosts_and_master_address_come_from_the_steps_nodes() -> None:
    found = detect(SRUN)
    assert (found.hosts, found.master_address, found.master_port) == (("nid000009", "nid000010", "nid000011"), "nid000009", None)
    assert detect({**SRUN, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}).master_address == "10.0.0.1"
    assert detect(JSRUN).hosts == ("h01", "h02")


def test_the_launch_key_differs_by_step_requeue_and_restart_and_not_by_rank() -> None:
    keys = [detect({**SRUN, **change}).job_id for change in ({}, {"SLURM_STEP_ID": "3"}, {"SLURM_RESTART_COUNT": "3"})]
    assert keys[0] == detect({**SRUN, "SLURM_PROCID": "1", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"}).job_id
    assert None not in keys
    assert len(set(keys)) == 3
    assert detect(TORCHRUN).job_id != detect({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"}).job_id
    assert detect(HYDRA).job_id is None
    assert detect({**HYDRA, LAUNCH_ID: "mine"}).job_id == "mine"


def test_ranks_set_by_hand_take_what_they_leave_out_from_the_launcher_underneath() -> None:
    assert place({**SRUN, "RANK": "5", "WORLD_SIZE": "6"}) == ("torchrun", 5, 6, 0, 1, 3, 2)


def test_ranks_set_by_hand_inside_a_step_of_one_per_node_count() -> None:
    assert place({**SRUN, "RANK": "11", "WORLD_SIZE": "12", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})[:5] == ("torchrun", 11, 12, 1, 2)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"RANK": "0"}, ["RANK=0", "WORLD_SIZE"]),
        ({**SRUN, "RANK": "5"}, ["RANK=5", "WORLD_SIZE"]),
        ({"WORLD_SIZE": "4"}, ["WORLD_SIZE=4", "RANK"]),
        ({**SRUN, "WORLD_SIZE": "8"}, ["WORLD_SIZE=8", "SLURM_STEP_NUM_TASKS=6"]),
        ({"LOCAL_RANK": "1"}, ["LOCAL_RANK=1"]),
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "6"}, ["RANK=0", "SLURM_PROCID=5"]),
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "1"}, ["WORLD_SIZE=1", "SLURM_STEP_NUM_TASKS=6"]),
        ({**TORCHRUN, "RANK": "8"}, ["RANK=8", "below 8", "WORLD_SIZE"]),
        ({**TORCHRUN, "RANK": "two"}, ["RANK=two", "whole number"]),
        ({**TORCHRUN, "RANK": "-1"}, ["RANK=-1", "whole number"]),
        ({**TORCHRUN, "RANK": "1_0"}, ["RANK=1_0", "whole number"]),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, ["WORLD_SIZE=0", "at least 1"]),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, ["LOCAL_RANK=4", "below 4", "LOCAL_WORLD_SIZE"]),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "9"}, ["LOCAL_WORLD_SIZE=9", "at most 8"]),
        ({**TORCHRUN, "MASTER_PORT": "65536"}, ["MASTER_PORT=65536", "65535"]),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ["OMPI_COMM_WORLD_SIZE=4", "OMPI_COMM_WORLD_RANK"]),
        ({"OMPI_COMM_WORLD_RANK": "1"}, ["OMPI_COMM_WORLD_RANK=1", "OMPI_COMM_WORLD_SIZE"]),
        ({"PMI_RANK": "1"}, ["PMI_RANK=1", "PMI_SIZE"]),
        ({"MPI_LOCALRANKID": "1", "PMI_SIZE": "2"}, ["MPI_LOCALRANKID=1", "PMI_RANK"]),
        ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "x"}, ["PMIX_RANK=1"]),
        ({**SRUN, "PMIX_RANK": "0"}, ["PMIX_RANK=0", "SLURM_PROCID=5"]),
        ({**SRUN, "PMI_RANK": "5", "PMI_SIZE": "2"}, ["PMI_SIZE=2", "SLURM_STEP_NUM_TASKS=6"]),
        ({**SRUN, "SLURM_LOCALID": "1"}, ["SLURM_LOCALID=1", "below 1", "3,2,1"]),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "3(x3)"}, ["3(x3)", "9", "SLURM_STEP_NUM_TASKS=6"]),
        ({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "x"}, ["SLURM_STEP_TASKS_PER_NODE=x"]),
        ({**SRUN, "SLURM_NODEID": "3"}, ["SLURM_NODEID=3", "3 nodes"]),
        ({**SRUN, "SLURM_STEP_NODELIST": "nid[1-"}, ["SLURM_STEP_NODELIST=nid[1-"]),
        ({**BATCH, "SLURM_PROCID": "1"}, ["SLURM_PROCID=1", "SLURM_STEP_ID"]),
        ({"SLURM_PROCID": "1"}, ["SLURM_PROCID", "SLURM_NTASKS"]),
    ],
)  # fmt: skip
def test_contradictions_and_half_sets_are_refused_by_name(environ: dict[str, str], named: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        detect(environ)
    for part in named:
        assert part in str(caught.value)


def test_a_world_size_of_one_from_a_sites_profile_harms_nothing() -> None:
    assert place({**PALS, "WORLD_SIZE": "1"}) == place(PALS)


def test_empty_variables_count_as_unset() -> None:
    assert place({"RANK": "", "WORLD_SIZE": " ", "SLURM_PROCID": ""}) == place({})


def test_a_named_launcher_is_read_alone() -> None:
    assert detect({**SRUN, **OPENMPI}, launcher="slurm").rank == 5
    with pytest.raises(UserError, match=r"OMPI_COMM_WORLD_RANK is not set.*mpirun"):
        detect(SRUN, launcher="openmpi")
    with pytest.raises(UserError, match=r"SLURM_STEP_ID is not set.*srun"):
        detect(BATCH, launcher="slurm")
    with pytest.raises(UserError, match="did you mean slurm"):
        detect({}, launcher="slrum")


def test_every_launcher_has_a_rank_variable_and_a_lone_process_has_none() -> None:
    assert all(rank_variable(launcher) for launcher in LAUNCHERS)
    assert rank_variable("none") is None


def test_the_schedulers_job_is_named_with_its_kind() -> None:
    found = [scheduler_job(environ) for environ in (BATCH, {"PBS_JOBID": "12.pbs"}, JSRUN, {})]
    assert found == ["slurm-4711", "pbs-12.pbs", "lsf-88", None]


def test_hostlists_expand_in_order_with_their_zero_padding() -> None:
    text = "nid[000001-000003,000010],gpu-[01-02]-x[3-4],login1"
    expected = ["nid000001", "nid000002", "nid000003", "nid000010", "gpu-01-x3", "gpu-01-x4", "gpu-02-x3", "gpu-02-x4", "login1"]
    assert expand(text) == expected
    assert expand("n[8-11]") == ["n8", "n9", "n10", "n11"]
    assert expand("n[098-101]-ib.site.org")[-1] == "n101-ib.site.org"


@pytest.mark.parametrize(
    "text",
    ["", ",", "a,,b", "a[1-2", "a]1", "a[]", "a[1,]", "a[x]", "a[3-1]", "a[[1]]", "a b", "a;b", "a[1-9999999]", "a[1-9999][1-9999]"],
)
def test_what_is_no_hostlist_is_refused_with_its_origin(text: str) -> None:
    with pytest.raises(UserError, match="SLURM_JOB_NODELIST"):
        expand(text, "SLURM_JOB_NODELIST")


def test_tasks_per_node_are_written_out() -> None:
    assert expand_counts("4(x3),2") == [4, 4, 4, 2]
    for text in ("", "4(x", "4(x3)2", "-1", "4(x9999999)"):
        with pytest.raises(UserError):
            expand_counts(text)


def test_ranks_fold_into_ranges() -> None:
    assert fold([12, 0, 3, 4, 5, 3]) == "0,3-5,12"
    assert fold([]) == ""
