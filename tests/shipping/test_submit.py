"""What spark-submit.sh says and what it would run; `--print-command` ends before Spark starts."""

import ast
import hashlib
import os
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from checkout import QUICK_START, ROOT, ready, submit


def printed_command(checkout: Path, *words: str, **environment: str) -> tuple[dict[str, str], list[str]]:
    """Environment and words of the command that would start Spark."""
    done = submit(checkout, "--print-command", *words, **(ready() | environment))
    assert done.returncode == 0, done.stderr
    parts = shlex.split(done.stdout)
    start = next(i for i, part in enumerate(parts) if "=" not in part)
    return dict(part.split("=", 1) for part in parts[:start]), parts[start:]


def after(command: list[str], option: str) -> str:
    return command[command.index(option) + 1]


def code_zip(checkout: Path) -> Path:
    return Path(after(printed_command(checkout, "nightly", "--env", "dev")[1], "--py-files"))


def test_alone_it_lists_the_jobs_with_a_line_each(checkout):
    done = submit(checkout)
    assert done.returncode == 0
    jobs = done.stdout.split("jobs:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split(maxsplit=1) for line in jobs] == [
        ["embed", "Embed what is new."],
        ["nightly", "Run the whole night."],
        ["setup", "install what the jobs need, and run none"],
    ]


def test_help_is_the_same_list(checkout):
    assert submit(checkout, "--help").stdout == submit(checkout).stdout != ""


def test_every_job_of_the_project_has_a_line():
    for path in (ROOT / "jobs").glob("[!_]*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring is not None, path
        assert f"{path.stem:19} {docstring.splitlines()[0]}" in submit(ROOT).stdout


def test_help_of_a_job_shows_its_own_options(checkout):
    done = submit(checkout, "nightly", "--help", **ready())
    assert done.returncode == 0
    assert "--dry-run" in done.stdout


def test_unknown_job_names_the_nearest(checkout):
    done = submit(checkout, "nigthly")
    assert done.returncode == 2
    assert "unknown job 'nigthly', did you mean nightly? There are: embed nightly setup" in done.stderr


def test_unknown_environment_names_the_nearest(checkout):
    done = submit(checkout, "nightly", "--env", "pord")
    assert done.returncode == 2
    assert "unknown environment 'pord', did you mean prod? There are: demo dev prod" in done.stderr


def test_env_without_a_name_is_refused(checkout):
    done = submit(checkout, "nightly", "--env")
    assert done.returncode == 2
    assert "--env needs a name: demo dev prod" in done.stderr


@pytest.mark.parametrize(
    ("words", "variable", "expected"),
    [
        (["--env", "prod"], {}, "prod"),
        (["--env=prod"], {}, "prod"),
        ([], {"SAMESTYLE_ENV": "dev"}, "dev"),
        (["--env", "prod"], {"SAMESTYLE_ENV": "dev"}, "prod"),
    ],
)
def test_env_chooses_the_file_and_reaches_the_job(checkout, words, variable, expected):
    _, command = printed_command(checkout, "nightly", *words, **variable)
    assert after(command, "--properties-file") == f"{checkout}/conf/spark/{expected}.conf"
    assert command[-3:] == [f"{checkout}/jobs/nightly.py", "--env", expected]


def test_the_default_is_demo(checkout):
    _, command = printed_command(checkout, "nightly", "encoder.path=/encoders/late_fusion")
    assert command[-3:] == ["--env", "demo", "encoder.path=/encoders/late_fusion"]


def test_words_before_the_dashes_go_to_the_job_and_those_after_to_spark(checkout):
    words = ["demo.day=2", "--dry-run", "paths.root=/a b", "--", "--master", "yarn", "--conf", "a=b c"]
    _, command = printed_command(checkout, "nightly", "--env", "dev", *words)
    job = command.index(f"{checkout}/jobs/nightly.py")
    assert command[job - 4 : job] == ["--master", "yarn", "--conf", "a=b c"]
    assert command[job + 1 :] == ["--env", "dev", "demo.day=2", "--dry-run", "paths.root=/a b"]


@pytest.mark.parametrize(("version", "expected"), [("2.12-3.5.7", False), ("2.13-4.0.1", True)])
def test_spark_3_is_not_given_an_option_that_it_does_not_know(checkout, tmp_path, version, expected):
    for path in ("bin/spark-submit", f"jars/spark-core_{version}.jar"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).touch(0o755)
    words = ["nightly", "--env", "dev", "--print-command"]
    done = submit(checkout, *words, **ready() | {"SPARK_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert (" --load-spark-defaults " in done.stdout) == expected


def test_lists_of_the_user_are_joined_to_ours(checkout):
    lists = ["--jars", "/x.jar", "--py-files=/y.zip", "--files", "/z.txt"]
    _, command = printed_command(checkout, "nightly", "--env", "dev", "--", *lists)
    assert after(command, "--jars") == "/jars/delta.jar,/x.jar"
    ours, theirs = after(command, "--py-files").split(",")
    assert ours.startswith(f"{checkout}/.cache/code/samestyle-")
    assert theirs == "/y.zip"
    assert after(command, "--files") == "/z.txt"
    assert sum(word.startswith(("--jars", "--py-files", "--files")) for word in command) == 3


def test_settings_travel_where_the_driver_has_no_checkout(checkout):
    _, command = printed_command(checkout, "nightly", "--env", "prod", "--", "--deploy-mode", "cluster")
    assert after(command, "--files") == f"{checkout}/conf/base.yaml,{checkout}/conf/prod.yaml"


def test_driver_and_workers_get_the_same_python_and_the_project(checkout):
    exported, command = printed_command(checkout, "nightly", "--env", "dev", PYSPARK_PYTHON="/other/python")
    assert exported["PYSPARK_PYTHON"] == exported["PYSPARK_DRIVER_PYTHON"] == sys.executable
    assert exported["SAMESTYLE_HOME"] == str(checkout)
    assert exported["TZ"] == "UTC"
    assert command[0] == f"{ready()['SPARK_HOME']}/bin/spark-submit"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--env", "demo"], "127.0.0.1"),
        (["--env", "demo", "--", "--master", "local[2]"], "127.0.0.1"),
        (["--env", "demo", "--", "--master", "spark://host:7077"], None),
        (["--env", "dev"], None),
    ],
)
def test_the_loopback_address_is_for_the_demo_on_this_machine_only(checkout, words, expected):
    exported, _ = printed_command(checkout, "nightly", "encoder.path=/encoders/x", *words)
    assert exported.get("SPARK_LOCAL_IP") == expected


def test_it_runs_from_another_folder_and_through_a_link(checkout, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(checkout / "spark-submit.sh")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **ready()}
    words = [str(link), "--print-command", "nightly", "--env", "dev"]
    done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[-3] == f"{checkout}/jobs/nightly.py"


def test_the_zip_holds_the_code_and_its_version(checkout):
    (checkout / "udfs" / "__pycache__").mkdir()
    (checkout / "udfs" / "__pycache__" / "old.pyc").write_bytes(b"")
    path = code_zip(checkout)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        version = archive.read("samestyle/_code_version.txt").decode().strip()
    assert {"samestyle/__init__.py", "samestyle/errors.py", "udfs/__init__.py", "jobs/nightly.py"} < set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    assert path.name == f"samestyle-{version}.zip"
    assert not (checkout / "samestyle" / "_code_version.txt").exists()


PRINT_CODE = """
import importlib.resources
import samestyle
print(samestyle.__file__, importlib.resources.files(samestyle).joinpath("_code_version.txt").read_text())
"""


def test_samestyle_can_be_imported_from_the_zip(checkout):
    path = code_zip(checkout)
    words = [sys.executable, "-c", PRINT_CODE]
    done = subprocess.run(words, env={"PYTHONPATH": str(path)}, cwd="/", capture_output=True, text=True)
    assert done.stdout.strip() == f"{path}/samestyle/__init__.py {path.stem.removeprefix('samestyle-')}"


def test_the_same_code_gives_the_same_bytes_and_a_changed_line_another_zip(checkout):
    first = code_zip(checkout)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    first.unlink()
    again = code_zip(checkout)
    assert (again, hashlib.sha256(again.read_bytes()).hexdigest()) == (first, digest)
    (checkout / "udfs" / "added.py").write_text("LINE = 1\n")
    changed = code_zip(checkout)
    assert changed != first
    assert first.exists()


def test_only_the_last_zips_are_kept(checkout):
    folder = checkout / ".cache" / "code"
    folder.mkdir(parents=True)
    for day in range(12):
        old = folder / f"samestyle-{day}.zip"
        old.touch()
        os.utime(old, (day, day))
    newest = code_zip(checkout)
    assert {path.name for path in folder.iterdir()} == {
        newest.name,
        *(f"samestyle-{day}.zip" for day in range(3, 12)),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_checkout_says_so(checkout):
    checkout.chmod(0o555)
    done = submit(checkout, "--print-command", "nightly", "--env", "dev", **ready())
    checkout.chmod(0o755)
    assert done.returncode == 2
    assert f"cannot write to {checkout}/.cache/code" in done.stderr


ROUND_TRIP = """
import os
import sys

import samestyle
from pyspark.sql import SparkSession


def where(_):
    import samestyle

    return samestyle.__file__, sys.executable, os.environ["TZ"], os.environ["OMP_NUM_THREADS"]


spark = SparkSession.builder.getOrCreate()
table = sys.argv[-1]
spark.range(10).coalesce(1).write.format("delta").save(table)
print(spark.read.format("delta").option("versionAsOf", 0).load(table).count(), "rows")
code, *rest = spark.sparkContext.parallelize([0], 1).map(where).first()
archive = os.path.dirname(os.path.dirname(samestyle.__file__))
print(os.path.basename(archive) in code and archive not in code, *rest)
spark.stop()
sys.exit(5)
"""


@pytest.mark.soak  # test_cluster.py runs a whole night so, and test_lock.py sees an exit code come through
@pytest.mark.skipif(not list((ROOT / ".cache" / "jars").glob("*.jar")), reason="needs Delta's jars: make setup")
def test_a_job_runs_on_executors_from_another_folder_without_network(checkout, tmp_path):
    (checkout / "jobs" / "round_trip.py").write_text(ROUND_TRIP)
    jars = ",".join(map(str, sorted((ROOT / ".cache" / "jars").glob("*.jar"))))
    table = str(tmp_path / "a table")
    small = ["spark.sql.shuffle.partitions=1", "spark.databricks.delta.snapshotPartitions=1"]
    small += [f"spark.{name}.extraJavaOptions={QUICK_START}" for name in ("driver", "executor")]
    spark = ["--master", "local-cluster[1,1,1024]", *(f"--conf={setting}" for setting in small)]
    words = ["round_trip", table, "--env", "dev", "--", *spark]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = ready() | {"SAMESTYLE_JARS": jars, "SPARK_LOCAL_IP": "127.0.0.1"}
    done = submit(checkout, *words, cwd=elsewhere, **environment)
    assert done.stdout.splitlines() == ["10 rows", f"True {sys.executable} UTC 1"], done.stderr
    assert done.returncode == 5
