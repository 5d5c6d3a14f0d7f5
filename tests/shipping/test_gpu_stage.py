"""The embedding stage asks Spark for GPUs and gets one a task; other stages neither ask nor wait for them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import QUICK_START, ROOT, spark_folder
from gpu_stage import AT_ONCE

CONF = {
    "spark.master": f"local-cluster[1,{AT_ONCE['plain']},1024]",
    "spark.executor.memory": "1g",
    "spark.worker.resource.gpu.amount": "2",
    "spark.worker.resource.gpu.discoveryScript": str(ROOT / "conf" / "spark" / "gpus.sh"),
    "spark.executor.resource.gpu.amount": "2",
    "spark.sql.shuffle.partitions": "2",
    "spark.ui.enabled": "false",
    "spark.driver.extraJavaOptions": QUICK_START,
    "spark.executor.extraJavaOptions": QUICK_START,
}


@pytest.mark.soak  # tests/core/test_placement.py has the profile; what becomes of it changes with Spark alone
def test_each_task_of_the_embedding_stage_has_a_gpu_of_its_own_and_other_stages_have_none(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
        "SAMESTYLE_HOME": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "0,1",  # which the discovery script counts
    }
    command = [f"{spark_folder()}/bin/spark-submit", *(f"--conf={name}={value}" for name, value in CONF.items())]
    command += [str(Path(__file__).with_name("gpu_stage.py")), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    had = json.loads(done.stdout.splitlines()[-1])
    tasks = {task["takes"]: task for task in had["gpu"]}
    assert sorted(tasks) == ["cuda:0", "cuda:1"]
    for number, task in enumerate(tasks[name] for name in sorted(tasks)):
        assert task["resources"] == {"gpu": [str(number)]}
        assert (task["device"], task["cpus"], task["decodes"]) == ("cuda", 1, 1)
    assert len(had["gpu"]) == 4
    assert had["plain"] == [{"resources": {}, "cpus": 1}] * AT_ONCE["plain"]
