# What a job needs on the submitting machine: one find_NAME, install_NAME and lack_NAME for each need.
# Sourced by spark-submit.sh, which decides whether anything may be installed. Reads $root, $cache, $venv;
# sets $python, $spark_home, $jars and JAVA_HOME.

setup_version=1 # raise it when the functions below install something else
uv_pin=uv==0.13.9
delta_package=io.delta:delta-spark_4.2_2.13:4.4.0
delta_jar=io.delta_delta-spark_4.2_2.13-4.4.0.jar
# Everything that Delta depends on and Spark ships itself.
delta_excludes='com.*:*,org.*:*,commons-*:*,javax.*:*,io.airlift:*'
stamp="$venv/.samestyle-setup"

say() { echo "samestyle: $*" >&2; }

fail() {
    say "$1"
    exit "${2:-2}"
}

# announce WHAT COMMAND...: runs the command quietly; on failure shows the end of what it printed, and stops.
announce() {
    local what=$1 log status=0
    shift
    log=$(mktemp)
    say "installing $what: $*"
    "$@" >"$log" 2>&1 </dev/null || status=$?
    ((status == 0)) || tail -n 30 "$log" >&2
    rm -f "$log"
    ((status == 0)) || fail "could not install $what: the command above ended with $status; correct it and run again"
}

# apt_install WHAT PACKAGE...: false where this machine is not ours to change, or has no apt.
apt_install() {
    local what=$1
    shift
    [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 1
    announce "$what (list of packages)" apt-get update
    announce "$what" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# --- Python: a ready one, or our own virtual environment ---------------------------------------------------------

is_python311() { [[ $("$1" -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null) == "3 11" ]]; }

base_python() {
    local candidate
    for candidate in python3.11 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.11*/bin/python3.11 /usr/bin/python3.11; do
        candidate=$(command -v "$candidate") && is_python311 "$candidate" && echo "$candidate" && return
    done
    return 1
}

setup_digest() {
    local version
    version=$("$venv/bin/python" -VV) &&
        { echo "$setup_version $uv_pin $version $root"; cat "$root/requirements.txt" "$root/pyproject.toml"; } | sha256
}

sha256() { (sha256sum 2>/dev/null || shasum -a 256) | cut -d' ' -f1; }

find_python() {
    if [[ -n ${SAMESTYLE_PYTHON:-} ]]; then
        python=$(command -v "$SAMESTYLE_PYTHON") || return 1
        [[ $python == /* ]] || python=$PWD/$python
        is_python311 "$python"
    else
        python="$venv/bin/python"
        [[ -x $python && -f $stamp && $(<"$stamp") == "$(setup_digest)" ]]
    fi
}

lack_python() {
    if [[ -n ${SAMESTYLE_PYTHON:-} ]]; then
        echo "Python 3.11: SAMESTYLE_PYTHON=$SAMESTYLE_PYTHON is none; name one that has the packages of requirements.txt"
    else
        echo "the virtual environment .venv (absent, unfinished or out of date): ./spark-submit.sh setup, or SAMESTYLE_PYTHON=/path/to/python"
    fi
}

# A ready Python is taken as it is: only what it lacks altogether is named.
find_packages() {
    [[ -n ${SAMESTYLE_PYTHON:-} && -x $python ]] || return 0
    absent_packages=$("$python" - "$root/pyproject.toml" "${SPARK_HOME:+pyspark}" <<'PYTHON'
import re, sys, tomllib
from importlib.metadata import distributions
project = tomllib.load(open(sys.argv[1], "rb"))["project"]
extras = project["optional-dependencies"]
wanted = [re.split(r"[=<>\[; ]", line)[0] for line in project["dependencies"] + extras["query"] + extras["jobs"]]
there = {re.sub(r"[-_.]+", "-", dist.name).lower() for dist in distributions()} | {"samestyle", sys.argv[2]}
print(*[name for name in wanted if name not in there])
PYTHON
    )
    [[ -z $absent_packages ]]
}

lack_packages() { echo "in SAMESTYLE_PYTHON=$SAMESTYLE_PYTHON: $absent_packages; install requirements.txt there"; }

install_packages() { return 1; } # nothing is ever installed into somebody else's Python

# A virtual environment that a stopped set-up left behind, or that was made elsewhere, is not worth repairing.
venv_is_sound() {
    [[ -x $venv/bin/python ]] && is_python311 "$venv/bin/python" &&
        grep -qF "$venv" "$venv/pyvenv.cfg" && [[ $(cat "$stamp" 2>/dev/null) != unfinished ]]
}

make_venv() {
    local base
    base=$(base_python) ||
        fail "Python 3.11 is missing (looked for python3.11, python3 and pyenv's): install it, or name one by SAMESTYLE_PYTHON"
    "$base" -c 'import ensurepip, venv' 2>/dev/null || apt_install "Python's venv module" python3.11-venv ||
        fail "$base cannot make virtual environments: install the package python3.11-venv (as root), then run again"
    rm -rf "$venv"
    mkdir -p "$venv"
    echo unfinished >"$stamp"
    announce "a virtual environment" "$base" -m venv "$venv"
}

# hnswlib comes as source.
require_compiler() {
    local header='import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")'
    command -v g++ >/dev/null && "$venv/bin/python" -c "$header" 2>/dev/null && return
    apt_install "a C++ compiler and Python's headers" g++ python3.11-dev ||
        fail "hnswlib needs a C++ compiler and Python's headers: install g++ and python3.11-dev (as root), then run again"
}

# uv does not read pip's configuration, where a company's mirror is usually named; nor, unless told, the system's
# certificates, which pip trusts and a company's proxy needs.
use_index_of_pip() {
    local index
    export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true}
    index=${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    [[ -z $index || -n ${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-} ]] || export UV_DEFAULT_INDEX=$index
}

install_python() {
    venv_is_sound || make_venv
    require_compiler
    echo unfinished >"$stamp"
    announce uv "$venv/bin/python" -m pip install --disable-pip-version-check "$uv_pin"
    use_index_of_pip
    local uv=("$venv/bin/uv" pip) target=(--python "$venv/bin/python")
    # Left alone, hnswlib is compiled for the processor of this machine, and crashes on an older one.
    local portable=(HNSWLIB_NO_NATIVE=1)
    [[ $(uname -m) != x86_64 ]] || portable+=(CXXFLAGS=-march=x86-64-v3)
    # uv's cache does not know the compiler's flags: a wheel compiled otherwise would be taken from it.
    announce "the packages of requirements.txt (about 5 GB)" \
        env "${portable[@]}" "${uv[@]}" sync "${target[@]}" --refresh-package hnswlib \
        --build-constraints "$root/requirements.txt" "$root/requirements.txt"
    announce "samestyle itself" "${uv[@]}" install "${target[@]}" --no-deps -e "$root"
    setup_digest >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# --- Java --------------------------------------------------------------------------------------------------------

java_version() {
    [[ -n $1 && -x $1/bin/java ]] || return 1
    local line
    line=$(grep -s '^JAVA_VERSION=' "$1/release") || line=$("$1/bin/java" -version 2>&1 | head -n 1)
    [[ $line =~ \"([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
}

java_on_path() {
    local java
    java=$(command -v java) && java=$(readlink -f "$java") && echo "${java%/bin/java}"
}

# Spark 4 is made for Java 17 and 21; a newer one is taken where there is nothing else.
find_java() {
    local places=(${JAVA_HOME:+"$JAVA_HOME"} "$(java_on_path)" /usr/lib/jvm/*17* /usr/lib/jvm/*21* /usr/lib/jvm/*) place version newer=""
    for place in "${places[@]}"; do
        version=$(java_version "$place") || continue
        if [[ $version == 17 || $version == 21 || ($version -gt 17 && $place == "${JAVA_HOME:-}") ]]; then
            export JAVA_HOME=$place
            return
        fi
        ((version <= 17)) || newer=${newer:-$place}
    done
    [[ -n $newer ]] && export JAVA_HOME=$newer
}

lack_java() { echo "Java 17 or 21 (looked at JAVA_HOME=${JAVA_HOME:-}, java on the PATH, /usr/lib/jvm): install openjdk-17-jre-headless, or set JAVA_HOME"; }

install_java() { apt_install "Java" openjdk-17-jre-headless; }

# --- Spark: a cluster's own, or the one in the Python environment ------------------------------------------------

find_spark() {
    if [[ -n ${SPARK_HOME:-} ]]; then
        spark_home=$SPARK_HOME
    elif [[ ! -x $python ]]; then
        return 0 # the Python environment is named as missing already, and Spark comes with it
    else
        spark_home=$("$python" -c 'from importlib.util import find_spec; print(find_spec("pyspark").submodule_search_locations[0])' 2>/dev/null) || return 1
    fi
    [[ -x $spark_home/bin/spark-submit ]]
}

lack_spark() {
    if [[ -n ${SPARK_HOME:-} ]]; then
        echo "Spark: SPARK_HOME=$SPARK_HOME has no bin/spark-submit; correct it, or unset it to use the Spark of the Python environment"
    else
        echo "Spark: neither SPARK_HOME nor the package pyspark in $python; set SPARK_HOME, or install requirements.txt there"
    fi
}

install_spark() { return 1; } # comes with the Python environment

# --- Delta's jars ------------------------------------------------------------------------------------------------

find_jars() {
    local found=("$cache"/jars/*.jar)
    if [[ -n ${SAMESTYLE_JARS:-} ]]; then
        jars=$SAMESTYLE_JARS
    elif [[ -e $cache/jars/$delta_jar ]]; then
        jars=$(IFS=,; echo "${found[*]}")
    else
        compgen -G "$spark_home/jars/delta-spark*.jar" >/dev/null || [[ ${spark_options[*]-} == *io.delta:* ]]
    fi
}

lack_jars() { echo "Delta's jars: ./spark-submit.sh setup, or SAMESTYLE_JARS=a.jar,b.jar, or -- --packages $delta_package"; }

# Spark's own resolver, so that its settings (mirrors, proxies) hold here as well.
install_jars() {
    local work
    rm -rf "$cache"/jars.?*
    work=$(mktemp -d "$cache/jars.XXXXXX")
    : >"$work/nothing.py"
    PYSPARK_PYTHON=$python SPARK_HOME=$spark_home announce "Delta's jars" "$spark_home/bin/spark-submit" \
        --master 'local[1]' --packages "$delta_package" --conf "spark.jars.excludes=$delta_excludes" \
        --conf "spark.jars.ivy=$work/ivy" "$work/nothing.py"
    rm -rf "$cache/jars"
    mv "$work/ivy/jars" "$cache/jars"
    rm -rf "$work"
}

# --- The encoder that the demo uses ------------------------------------------------------------------------------

encoder_kind=late_fusion # the baseline, for a build without the shipped fusion
[[ ! -f $root/samestyle/encoder/transforms/starter.safetensors ]] || encoder_kind=unified
encoder=$cache/encoders/$encoder_kind

# Weights come with the packages, the transform with the code: where neither changed, the export holds.
encoder_digest() {
    { cat "$root/requirements.txt"; find "$root/samestyle/encoder" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 cat; } | sha256
}

find_encoder() {
    [[ ($env != demo && $job != setup) || ${job_arguments[*]-} == *encoder.path=* ]] && return
    [[ -f $encoder/encoder.json ]] && { ! may_install || [[ $(cat "$encoder.setup" 2>/dev/null) == "$(encoder_digest)" ]]; }
}

lack_encoder() { echo "the exported encoder: $python -m samestyle.encoder.export '$encoder', or encoder.path=FOLDER"; }

install_encoder() {
    local work
    mkdir -p "$cache/encoders"
    rm -rf "$cache"/encoders/export.?*
    work=$(mktemp -d "$cache/encoders/export.XXXXXX")
    PYTHONPATH=$root announce "the encoder $encoder_kind" \
        "$python" -m samestyle.encoder.export "$work/$encoder_kind" --kind "$encoder_kind"
    rm -rf "$encoder"
    mv "$work/$encoder_kind" "$encoder"
    encoder_digest >"$encoder.setup"
    rm -rf "$work"
}

# --- All needs together ------------------------------------------------------------------------------------------

may_install() { [[ -z ${SAMESTYLE_PYTHON:-} && ($env == demo || $job == setup) ]]; }

# Where two set-ups start at the same time, the second one waits, and then finds everything there.
lock_setup() {
    command -v flock >/dev/null || return 0
    exec 9>"$cache/setup.lock"
    flock --nonblock 9 || { say "waiting for another set-up of this checkout"; flock 9; }
}

# ready NEED...: finds each need in turn; installs where that is allowed; names all that is missing in one message.
ready() {
    local need missing=() locked=""
    for need in "$@"; do
        "find_$need" && continue
        if may_install; then
            [[ -n $locked ]] || { mkdir -p "$cache" && lock_setup && locked=yes; }
            "find_$need" || { "install_$need" && "find_$need"; } && continue
        fi
        missing+=("$(lack_$need)")
    done
    [[ -z $locked ]] || exec 9>&-
    ((${#missing[@]} == 0)) || fail "missing on this machine:$(printf '\n  - %s' "${missing[@]}")"
}
