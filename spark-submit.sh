#!/usr/bin/env bash
# Submits a job of samestyle to Spark. `./spark-submit.sh --help` says how.
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 403)); then
    echo "samestyle: bash 4.3 or newer is needed, this is $BASH_VERSION: install a newer one" >&2
    exit 2
fi
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
cache=$root/.cache
venv=$root/.venv
job="" env="${SAMESTYLE_ENV:-demo}" help="" print_command="" job_arguments=() spark_options=()
python="" spark_home="" jars="" py_files="" files=""
# shellcheck source=conf/setup.sh
source "$root/conf/setup.sh"

usage() {
    cat <<TEXT
usage: ./spark-submit.sh JOB [--env ENV] [a.b=value ...] [job options] [-- spark-submit options]

jobs:
$(list_jobs)
    setup               install what the jobs need, and run none

  JOB --help            the job's own options
  --env ENV             one of: $(environments); default: \$SAMESTYLE_ENV, else demo
  a.b=value             a setting, as in conf/base.yaml
  --print-command       print the command that would run Spark instead of running it
  -- ...                handed to Spark's spark-submit, e.g. -- --master yarn --num-executors 20

Env demo and \`setup\` install what is missing: .venv, Delta's jars, the encoder; as root with apt also g++ and Java.
The other environments install nothing and name what is missing. Used as they are where they are set:
  SAMESTYLE_PYTHON      a Python 3.11 that has the packages of requirements.txt; then nothing is installed in any env
  SPARK_HOME            a cluster's own Spark
  SAMESTYLE_JARS        Delta's jars, separated by commas
TEXT
}

job_names() { (cd "$root/jobs" && for file in *.py; do [[ $file == __init__.py ]] || echo "${file%.py}"; done); }

environments() { (cd "$root/conf/spark" && printf '%s\n' *.conf | sed 's/\.conf$//' | paste -sd' ' -); }

first_line_of_docstring() { sed -n '/^[rR]\{0,1\}"""/{s/^[rR]*"""//;s/"""$//;p;q;}' "$1"; }

list_jobs() {
    local name
    for name in $(job_names); do
        printf '    %-19s %s\n' "$name" "$(first_line_of_docstring "$root/jobs/$name.py")"
    done
}

# unknown KIND WORD KNOWN...: stops, naming the nearest known words.
unknown() {
    local kind=$1 word=$2 near
    shift 2
    near=$(python3 -c 'import difflib, sys; print(*difflib.get_close_matches(sys.argv[1], sys.argv[2:], cutoff=0.5), sep=" or ")' \
        "$word" "$@" 2>/dev/null) || near=""
    fail "unknown $kind '$word'${near:+, did you mean $near}? There are: $*"
}

parse_arguments() {
    while (($#)); do
        case $1 in
            --) shift && spark_options=("$@") && break ;;
            --env) (($# > 1)) || fail "--env needs a name: $(environments)"; env=$2 && shift ;;
            --env=*) env=${1#*=} ;;
            -h | --help) help=yes ;;
            --print-command) print_command=yes ;;
            *) if [[ -z $job && $1 != -* ]]; then job=$1; else job_arguments+=("$1"); fi ;;
        esac
        shift
    done
}

check_names() {
    local known
    read -ra known <<<"$(environments)"
    [[ " ${known[*]} " == *" $env "* ]] || unknown environment "$env" "${known[@]}"
    mapfile -t known < <(job_names && echo setup)
    [[ " ${known[*]} " == *" $job "* ]] || unknown job "$job" "${known[@]}"
}

# Workers import the code from this file, so it is made anew whenever a line has changed. Same code, same bytes.
make_code_zip() {
    mkdir -p "$cache/code" 2>/dev/null && [[ -w $cache/code ]] || fail "cannot write to $cache/code: the zip of the code is made there; make it writable"
    "$python" - "$root" "$cache/code" "$(git -C "$root" describe --always --dirty 2>/dev/null)" <<'PYTHON'
import hashlib, os, sys, zipfile
from pathlib import Path

root, folder, described = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
paths = sorted(p for room in ("samestyle", "udfs", "jobs") for p in (root / room).rglob("*") if p.is_file())
code = {str(p.relative_to(root)): p.read_bytes() for p in paths if "__pycache__" not in p.parts}
digest = hashlib.sha256(repr(sorted(code.items())).encode()).hexdigest()[:12]
version = f"{described}+{digest}" if described else digest
code["samestyle/_code_version.txt"] = f"{version}\n".encode()
target = folder / f"samestyle-{version}.zip"
if not target.exists():
    with zipfile.ZipFile(folder / f"{target.name}.{os.getpid()}", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(code.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    os.rename(archive.filename, target)
os.utime(target)
for old in sorted(folder.glob("samestyle-*.zip"), key=lambda path: path.stat().st_mtime)[:-10]:
    old.unlink(missing_ok=True)
print(target)
PYTHON
}

# Spark takes the last --jars alone: lists that the user gives are joined to ours.
join_lists() {
    local rest=()
    set -- ${spark_options[@]+"${spark_options[@]}"}
    while (($#)); do
        case $1 in
            --jars | --py-files | --files) (($# > 1)) || fail "$1 needs a value"; join_list "$1" "$2" && shift ;;
            --jars=* | --py-files=* | --files=*) join_list "${1%%=*}" "${1#*=}" ;;
            *) rest+=("$1") ;;
        esac
        shift
    done
    spark_options=(${rest[@]+"${rest[@]}"})
}

join_list() {
    local -n list=$(echo "${1#--}" | tr - _)
    list+=${list:+,}$2
}

option() { [[ " ${spark_options[*]-} " =~ $1 ]]; }

cluster_mode() {
    option '(--deploy-mode[ =]|spark\.submit\.deployMode=)cluster' ||
        grep -qE '^spark\.submit\.deployMode[ =]+cluster' "$root/conf/spark/$env.conf"
}

export_environment() {
    export PYSPARK_PYTHON=$python PYSPARK_DRIVER_PYTHON=$python SPARK_HOME=$spark_home SAMESTYLE_HOME=$root TZ=UTC
    # A laptop's own name often resolves to nothing; but a cluster must reach the driver.
    if [[ $env == demo ]] && ! option '(--master[ =]|spark\.master=)[^l]'; then
        export SPARK_LOCAL_IP=${SPARK_LOCAL_IP:-127.0.0.1}
    fi
    [[ -e $spark_home/conf/log4j2.properties ]] || export LOG4J_CONFIGURATION_FILE=${LOG4J_CONFIGURATION_FILE:-$root/conf/spark/log4j2.properties}
}

spark_command() {
    py_files=$(make_code_zip)
    # In cluster mode the driver runs where there is no checkout.
    ! cluster_mode || files=$root/conf/base.yaml,$root/conf/$env.yaml
    join_lists
    # Spark 3 does not know this option: it reads our file in place of its spark-defaults.conf.
    local both=(--load-spark-defaults)
    ! compgen -G "$spark_home/jars/spark-core_*-3.*.jar" >/dev/null || both=()
    command=("$spark_home/bin/spark-submit" --name "samestyle $job" --properties-file "$root/conf/spark/$env.conf"
        ${both[@]+"${both[@]}"} --py-files "$py_files" ${jars:+--jars "$jars"} ${files:+--files "$files"}
        ${spark_options[@]+"${spark_options[@]}"} "$root/jobs/$job.py" --env "$env" ${job_arguments[@]+"${job_arguments[@]}"})
}

print_spark_command() {
    local name
    for name in JAVA_HOME PYSPARK_PYTHON PYSPARK_DRIVER_PYTHON SPARK_HOME SAMESTYLE_HOME TZ SPARK_LOCAL_IP LOG4J_CONFIGURATION_FILE; do
        [[ -z ${!name:-} ]] || printf '%s=%q ' "$name" "${!name}"
    done
    printf '%q ' "${command[@]}"
    echo
}

main() {
    parse_arguments "$@"
    if [[ -z $job ]]; then
        usage
        exit
    fi
    check_names
    if [[ -n $help && $job != setup ]]; then
        ready python
        SAMESTYLE_HOME=$root PYTHONPATH=$root exec "$python" "$root/jobs/$job.py" --help
    fi
    ready python packages java spark jars encoder
    if [[ $job == setup ]]; then
        say "everything is there"
        exit
    fi
    export_environment
    spark_command
    if [[ -n $print_command ]]; then
        print_spark_command
    else
        exec "${command[@]}"
    fi
}

main "$@"
