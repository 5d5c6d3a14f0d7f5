"""Where the embedding stage runs: on CPUs, or on the GPUs of the cluster or of this machine. Other stages have CPUs."""

from dataclasses import dataclass

from pyspark import SparkConf
from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import SparkSession

from samestyle.errors import UsageError
from samestyle.settings import Settings

GPUS = "spark.executor.resource.gpu.amount"
TASK_GPUS = "spark.task.resource.gpu.amount"
BATCH_SIZE = {"cpu": 32, "cuda": 256}
TASK_ROWS = {"cpu": 500, "cuda": 10_000}


@dataclass(frozen=True)
class Placement:
    """device `cpu` or `cuda`; the cores of a task; what the stage asks of Spark; its most tasks, where that is bounded.

    Spark hands out GPUs on clusters only: on a local master a wave has as many tasks as there are GPUs, a task on each.
    """

    device: str = "cpu"
    cores: int = 1
    profile: ResourceProfile | None = None
    most_tasks: int | None = None


def placement(spark: SparkSession, settings: Settings) -> Placement:
    """Where to embed, by encoder.device and what Spark was told. Raises UsageError for a GPU that is not there."""
    conf = spark.sparkContext.getConf()
    asked, gpus = settings.encoder.device, float(conf.get(GPUS, "0") or 0)
    if asked == "cpu" or (asked == "auto" and not gpus):
        return Placement()
    if str(spark.sparkContext.master).partition("[")[0] == "local":
        return on_this_machine(spark.sparkContext.defaultParallelism)
    if not gpus or float(conf.get(TASK_GPUS, "0") or 0):
        # Every task of the application has a GPU already, or whoever set encoder.device=cuda has seen to it.
        return Placement("cuda", int(conf.get("spark.task.cpus", "1") or 1))
    cores = settings.embed.task_cores or share_of_cores(conf, gpus, settings.embed.task_gpus)
    requests = TaskResourceRequests().cpus(cores).resource("gpu", settings.embed.task_gpus)
    # Without requests for executors the profile is a task's alone, and the executors that are there take it.
    return Placement("cuda", cores, ResourceProfileBuilder().require(requests).build)


def on_this_machine(cores: int) -> Placement:
    try:
        from torch.cuda import device_count  # counts without initialising CUDA
    except ImportError as error:
        raise UsageError(f"encoder.device=cuda, and {error}: install the extra samestyle[gpu], or take cpu") from error
    gpus = device_count()
    if not gpus:
        raise UsageError("encoder.device=cuda, and torch sees 0 GPUs on this machine: set encoder.device=cpu")
    return Placement("cuda", max(1, cores // gpus), most_tasks=gpus)


def share_of_cores(conf: SparkConf, gpus: float, task_gpus: float) -> int:
    """The cores of an executor that fall to one task, so that those that share its GPUs use all of them."""
    tasks = int(gpus / task_gpus)
    return max(1, int(conf.get("spark.executor.cores", "1") or 1) // max(1, tasks))
