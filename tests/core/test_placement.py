"""Where the embedding stage runs, by the settings and by what Spark was told; and which GPU a task has."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from samestyle.errors import UsageError
from samestyle.settings import load_settings

pytest.importorskip("pyspark")
from samestyle.tables.placement import GPUS, TASK_GPUS, Placement, placement
from samestyle.tables.session import check_paths
from samestyle.tables.versions import map_in_arrow
from samestyle.tables.waves import pipeline_of, tasks_of
from udfs import embed

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = {GPUS: "1", "spark.executor.cores": "8"}


def settings(*overrides: str) -> Any:
    return load_settings("dev", overrides=list(overrides))


def spark(master: str = "spark://host:7077", cores: int = 8, **conf: str) -> Any:
    context = SimpleNamespace(master=master, defaultParallelism=cores, getConf=lambda: conf)
    return SimpleNamespace(sparkContext=context)


def asked(place: Placement) -> dict[str, float]:
    assert place.profile is not None
    assert place.profile.executorResources == {}  # or only dynamic allocation could fulfil it
    return {name: request.amount for name, request in place.profile.taskResources.items()}


def test_a_local_folder_is_refused_where_executors_may_not_see_it_unless_it_is_declared_shared(tmp_path: Path):
    root, master = f"paths.root={tmp_path}", "spark://host:7077"
    with pytest.raises(UsageError) as told:
        check_paths(spark(master), settings(root))
    assert f"{root} is a local path and the master is {master}: executors may not see it" in str(told.value)
    assert "say so with paths.shared=true" in str(told.value)
    with pytest.raises(UsageError, match=r"release\.store=/local is a local path"):
        check_paths(spark(master), settings("paths.root=s3://bucket/shop", "release.store=/local"))
    check_paths(spark(master), settings(root, "paths.shared=true"))
    check_paths(spark(master), settings("paths.root=s3://bucket/shop", "release.store=s3://bucket/shop"))
    check_paths(spark("local[*,4]"), settings(root))


def test_without_gpus_everything_runs_on_cpus():
    for master in ("local[*,4]", "spark://host:7077", "yarn"):
        assert placement(spark(master), settings()) == Placement()


def test_where_executors_have_gpus_the_stage_asks_for_one_and_for_its_share_of_the_cores():
    place = placement(spark(**CLUSTER), settings())
    assert (place.device, place.cores, place.most_tasks) == ("cuda", 8, None)
    assert asked(place) == {"cpus": 8.0, "gpu": 1.0}


@pytest.mark.parametrize(
    ("conf", "overrides", "expected"),
    [
        ({GPUS: "4", "spark.executor.cores": "16"}, [], {"cpus": 4.0, "gpu": 1.0}),
        (CLUSTER, ["embed.task_gpus=0.5"], {"cpus": 4.0, "gpu": 0.5}),
        (CLUSTER, ["embed.task_cores=3"], {"cpus": 3.0, "gpu": 1.0}),
        ({GPUS: "2"}, [], {"cpus": 1.0, "gpu": 1.0}),
    ],
)
def test_what_a_task_asks_for_follows_the_executor_and_the_settings(conf, overrides, expected):
    assert asked(placement(spark(**conf), settings(*overrides))) == expected


def test_encoder_device_cpu_leaves_the_gpus_alone():
    assert placement(spark(**CLUSTER), settings("encoder.device=cpu")) == Placement()


def test_an_application_whose_tasks_all_have_a_gpu_needs_no_profile():
    conf = CLUSTER | {TASK_GPUS: "1", "spark.task.cpus": "4"}
    assert placement(spark(**conf), settings()) == Placement("cuda", 4)


def test_on_a_local_master_a_wave_has_a_task_for_each_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    place = placement(spark("local[16,4]", 16), settings("encoder.device=cuda"))
    assert place == Placement("cuda", 8, None, 2)
    limits = settings().embed
    assert tasks_of(50_000, limits, place) == 2
    assert tasks_of(50_000, limits, Placement("cuda")) == 5
    assert tasks_of(50_000, limits, Placement()) == 100
    assert tasks_of(10, limits, Placement("cuda", most_tasks=1)) == 1


def test_a_gpu_that_is_not_there_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="torch sees 0 GPUs"):
        placement(spark("local[*,4]"), settings("encoder.device=cuda"))


def test_a_task_on_a_gpu_decodes_on_all_its_cores_and_takes_large_batches():
    on_cpu, on_gpu = (pipeline_of(settings(), place) for place in (Placement(), Placement("cuda", 12)))
    assert (on_cpu.device, on_cpu.batch_size, on_cpu.decodes, on_cpu.fetches) == ("cpu", 32, 1, 16)
    assert (on_gpu.device, on_gpu.batch_size, on_gpu.decodes, on_gpu.fetches) == ("cuda", 256, 12, 24)
    chosen = pipeline_of(settings("embed.decode_threads=3", "encoder.batch_size=64"), Placement("cuda", 12))
    assert (chosen.batch_size, chosen.decodes, chosen.fetches) == (64, 3, 16)


# --- the worker's side


class Task:
    def __init__(self, partition: int, *addresses: str) -> None:
        self.partition, self.addresses = partition, addresses

    def partitionId(self) -> int:
        return self.partition

    def resources(self) -> dict[str, Any]:
        return {"gpu": SimpleNamespace(addresses=list(self.addresses))} if self.addresses else {}


@pytest.mark.parametrize(("task", "expected"), [(Task(7, "3"), "cuda:3"), (Task(1), "cuda:1"), (None, "cuda:0")])
def test_a_task_takes_the_gpu_that_it_was_given(monkeypatch, task, expected):
    monkeypatch.setattr(embed.TaskContext, "get", lambda: task)
    assert embed.task_gpu() == expected


def test_an_address_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setattr(embed.TaskContext, "get", lambda: Task(0, "GPU-5f2c"))
    with pytest.raises(UsageError, match=r"'GPU-5f2c', expected a number: conf/spark/gpus\.sh"):
        embed.task_gpu()


def test_the_model_is_loaded_on_the_tasks_device_only(monkeypatch):
    loads: list[tuple[Any, ...]] = []
    source = SimpleNamespace(load=lambda *how: loads.append(how), load_on=lambda *how: loads.append(how))
    monkeypatch.setattr(embed.TaskContext, "get", lambda: Task(0, "2"))
    for place in (Placement(), Placement("cuda")):
        embed.loaded(source, pipeline_of(settings("encoder.precision=fp16", "encoder.threads=3"), place))
    assert loads == [(3,), ("cuda:2", "fp16")]


def test_a_spark_that_knows_no_profiles_needs_none_without_gpus():
    """The call as Spark 3.5 has it."""
    rows: Any = SimpleNamespace(mapInArrow=lambda func, schema, barrier=False: (func, schema, barrier))
    assert map_in_arrow(rows, "embed", "a int", None) == ("embed", "a int", False)
    with pytest.raises(UsageError, match=r"GPUs of its own, which Spark knows since 4\.0.*encoder\.device=cpu"):
        map_in_arrow(rows, "embed", "a int", placement(spark(**CLUSTER), settings()).profile)


# --- the discovery script


@pytest.mark.parametrize(
    ("environment", "addresses"),
    [({}, ["0", "1", "2"]), ({"CUDA_VISIBLE_DEVICES": "2,0"}, ["0", "1"]), ({"CUDA_VISIBLE_DEVICES": ""}, [])],
)
def test_the_discovery_script_counts_as_cuda_does(tmp_path, environment, addresses):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf '0\\n1\\n2\\n'\n")
    smi.chmod(0o755)
    script = [str(ROOT / "conf" / "spark" / "gpus.sh")]
    paths = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run(script, env=paths | environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"name": "gpu", "addresses": addresses}
