"""Set-up: what is found, what is named as missing, and that nothing is installed where it must not be."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from checkout import ready, submit


def in_setup(checkout: Path, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one line of bash with the functions of conf/setup.sh."""
    variables = f"root='{checkout}' cache='{checkout}/.cache' venv='{checkout}/.venv' env=demo job=nightly"
    script = f"set -euo pipefail\n{variables} python= spark_home= jars=\nsource '{checkout}/conf/setup.sh'\n{line}"
    basic = {"PATH": os.environ["PATH"], "HOME": str(checkout.parent)}
    return subprocess.run(["bash", "-c", script], env=basic | environment, capture_output=True, text=True)


def java_home(folder: Path, version: str) -> str:
    """A folder that says which Java it is, as every JDK does; nothing here starts it."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").write_text("")
    (folder / "bin" / "java").chmod(0o755)
    (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return str(folder)


@pytest.mark.parametrize("env", ["dev", "prod"])
def test_dev_and_prod_name_all_that_is_missing_and_install_nothing(checkout, env):
    done = submit(checkout, "nightly", "--env", env)
    assert done.returncode == 2
    assert done.stderr.startswith("samestyle: missing on this machine:\n")
    assert "  - the virtual environment .venv" in done.stderr
    assert "  - Delta's jars" in done.stderr
    assert "installing" not in done.stderr
    assert not (checkout / ".venv").exists()
    assert not (checkout / ".cache").exists()


def test_a_ready_python_is_left_alone_and_what_it_lacks_is_named(checkout, tmp_path):
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    before = sorted(bare.rglob("*"))
    done = submit(checkout, "nightly", SAMESTYLE_PYTHON=str(bare / "bin" / "python"))
    assert done.returncode == 2
    assert "hnswlib" in done.stderr
    assert "pyspark" in done.stderr
    assert "the exported encoder" in done.stderr
    assert "installing" not in done.stderr
    assert sorted(bare.rglob("*")) == before
    assert not (checkout / ".venv").exists()


def test_a_python_that_is_none_is_named(checkout):
    done = submit(checkout, "nightly", SAMESTYLE_PYTHON="/nowhere/python")
    assert done.returncode == 2
    assert "SAMESTYLE_PYTHON=/nowhere/python is none" in done.stderr


def test_a_spark_home_without_spark_is_named(checkout, tmp_path):
    done = submit(checkout, "nightly", "--env", "dev", **(ready() | {"SPARK_HOME": str(tmp_path)}))
    assert done.returncode == 2
    assert f"SPARK_HOME={tmp_path} has no bin/spark-submit" in done.stderr


def test_setup_obeys_a_ready_python_too(checkout):
    done = submit(checkout, "setup", **ready())
    assert done.returncode == 2
    assert "the exported encoder" in done.stderr
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("version", ["17.0.15", "21.0.2", "25"])
def test_java_home_is_taken_where_it_is_new_enough(checkout, tmp_path, version):
    home = java_home(tmp_path / "jdk", version)
    assert in_setup(checkout, 'find_java && echo "$JAVA_HOME"', JAVA_HOME=home).stdout.strip() == home


def test_an_old_java_home_is_passed_over(checkout, tmp_path):
    old, new = java_home(tmp_path / "old", "11.0.2"), java_home(tmp_path / "new", "17.0.1")
    path = f"{new}/bin:{os.environ['PATH']}"
    assert in_setup(checkout, 'find_java && echo "$JAVA_HOME"', JAVA_HOME=old, PATH=path).stdout.strip() == new


def test_java_versions_are_read(checkout, tmp_path):
    homes = {version: java_home(tmp_path / version, version) for version in ("17", "21.0.2", "25.0.1+8")}
    read = [in_setup(checkout, f"java_version '{home}'").stdout.strip() for home in homes.values()]
    assert read == ["17", "21", "25"]


def test_the_base_python_is_3_11(checkout):
    found = in_setup(
        checkout, "base_python", PATH=f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"
    ).stdout.strip()
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    assert version.startswith("Python 3.11.")


def test_an_unfinished_virtual_environment_is_not_trusted(checkout):
    venv.create(checkout / ".venv", with_pip=False)
    stamp = checkout / ".venv" / ".samestyle-setup"
    sound = "venv_is_sound && echo sound || echo broken"
    ready_made = "find_python && echo ready || echo missing"
    assert in_setup(checkout, f"{sound}; {ready_made}").stdout.split() == ["sound", "missing"]
    stamp.write_text("unfinished\n")
    assert in_setup(checkout, f"{sound}; {ready_made}").stdout.split() == ["broken", "missing"]
    in_setup(checkout, f"setup_digest > '{stamp}'")
    assert in_setup(checkout, f"{sound}; {ready_made}").stdout.split() == ["sound", "ready"]


@pytest.mark.parametrize("name", ["requirements.txt", "pyproject.toml"])
def test_set_up_is_out_of_date_when_its_files_change(checkout, name):
    venv.create(checkout / ".venv", with_pip=False)
    in_setup(checkout, f"setup_digest > '{checkout}/.venv/.samestyle-setup'")
    assert in_setup(checkout, "find_python").returncode == 0
    with (checkout / name).open("a") as file:
        file.write("# another line\n")
    assert in_setup(checkout, "find_python").returncode == 1


def test_a_moved_virtual_environment_is_made_anew(checkout):
    venv.create(checkout / ".venv", with_pip=False)
    moved = checkout.rename(checkout.parent / "moved")
    assert in_setup(moved, "venv_is_sound").returncode != 0


def test_what_is_installed_is_announced_and_a_failure_says_what(checkout):
    done = in_setup(checkout, "announce 'a thing' bash -c 'echo details; exit 3'")
    assert done.returncode == 2
    assert "samestyle: installing a thing: bash -c echo details; exit 3" in done.stderr
    assert "details\nsamestyle: could not install a thing: the command above ended with 3" in done.stderr


def test_what_is_installed_well_is_quiet(checkout):
    done = in_setup(checkout, "announce 'a thing' echo details")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "samestyle: installing a thing: echo details\n"


def test_a_second_set_up_waits_for_the_first(checkout):
    (checkout / ".cache").mkdir()
    script = """lock_setup
        (exec 9>&-; lock_setup; echo second) 2>said &
        until grep -q waiting said || ! kill -0 $!; do sleep 0.02; done
        echo first
        exec 9>&-
        wait"""
    done = in_setup(checkout, f"cd '{checkout}'\n{script}")
    assert done.stdout.splitlines() == ["first", "second"]
    assert "waiting for another set-up" in (checkout / "said").read_text()


def test_the_demo_needs_an_encoder_and_the_others_find_their_own(checkout):
    line = "job_arguments=(); find_encoder && echo there || echo missing"
    assert in_setup(checkout, line).stdout.strip() == "missing"
    assert in_setup(checkout, f"env=prod; {line}").stdout.strip() == "there"
    assert in_setup(checkout, "job_arguments=(encoder.path=/x); find_encoder && echo there").stdout.strip() == "there"
