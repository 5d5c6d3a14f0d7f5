"""Imports point one way, jobs -> udfs -> samestyle, and the lighter rooms of samestyle know nothing of the heavier."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("samestyle", "udfs", "jobs")
# What the others are built on: it serves, searches and encodes wherever it is installed.
CORE = ("catalogue", "encoder", "evaluation", "index", "release", "serving")
SPARK = ("pyspark", "delta", "py4j")
# All that a worker is asked to have, besides our own code.
WORKER_LIBRARIES = {"pyspark", "pandas", "numpy", "pyarrow", "hnswlib", "onnxruntime", "tokenizers", "cv2", "PIL"}
NOT_ON_WORKERS = ("jobs", "torch", "transformers", "pydantic", "boto3", "delta", "jinja2", "matplotlib", "skia")
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.py") if path.name != "__init__.py")


class Import(NamedTuple):
    importer: str
    line: int
    imported: str

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of the product, by name."""
    return {module_name(path): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}


def inside(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def package_of(module: str, level: int) -> str:
    """The package that a relative import of `module` starts from."""
    parts = module.split(".")
    if modules()[module].name == "__init__.py":
        level -= 1
    return ".".join(parts[: len(parts) - level])


def imported_by(module: str, node: ast.stmt) -> list[str]:
    """What one statement imports, by full names; a name taken from a package may be a module of its own."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = ".".join(filter(None, [package_of(module, node.level) if node.level else "", node.module]))
        names = [f"{base}.{alias.name}" for alias in node.names]
        return [name if name in modules() else base for name in names]
    return []


@cache
def imports() -> tuple[Import, ...]:
    """Every import of the product, those inside of functions too."""
    return tuple(
        Import(module, node.lineno, name)
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported_by(module, node)
    )


def load_time_imports(module: str) -> Iterator[Import]:
    """Imports that run when the module is loaded: those outside of functions and of `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [ast.parse(modules()[module].read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Import(module, node.lineno, name) for name in imported_by(module, node))
        waiting += ast.iter_child_nodes(node)


def assert_none(found: list[Import], rule: str) -> None:
    assert not found, "\n".join([f"{rule}, but", *map(str, found)])


def test_the_rules_below_look_at_something():
    assert {"jobs.nightly", "udfs.embed", "samestyle.tables.job", "samestyle.demo"} <= set(modules())
    found = {(i.importer, i.imported) for i in imports()}
    assert ("jobs.nightly", "jobs.embed") in found
    assert ("samestyle.demo.catalogue", "samestyle.demo.clicks") in found
    assert ("samestyle.encoder.export", "torch") in found
    assert "torch" not in {i.imported for i in load_time_imports("samestyle.encoder.export")}


@pytest.mark.parametrize(("room", "above"), [("samestyle", ("udfs", "jobs")), ("udfs", ("jobs",))])
def test_no_room_imports_one_above_it(room, above):
    found = [i for i in imports() if inside(i.importer, room) and inside(i.imported, *above)]
    assert_none(found, f"{room} imports nothing of {' or '.join(above)}")


def test_nobody_imports_a_job_but_the_night():
    found = [i for i in imports() if inside(i.imported, "jobs") and i.importer != "jobs.nightly"]
    assert_none(found, "jobs are started by spark-submit.sh and imported by jobs.nightly alone")


@pytest.mark.parametrize(
    ("room", "users"),
    [
        ("tables", ("tables",)),
        ("report", ("report", "tables")),
        ("web", ("web", "web_commands")),
        ("demo", ("demo", "tables", "training", "web")),
    ],
)
def test_what_people_look_at_and_what_needs_spark_is_used_by_few(room, users):
    allowed = [f"samestyle.{user}" for user in users]
    found = [
        i
        for i in imports()
        if inside(i.imported, f"samestyle.{room}")
        and inside(i.importer, "samestyle")
        and not inside(i.importer, *allowed)
    ]
    assert_none(found, f"inside samestyle only {', '.join(users)} may import {room}")


@pytest.mark.parametrize("room", CORE)
def test_the_core_knows_no_settings_tree(room):
    """Workers and servers read no settings; naming a type for a reader of the code costs nothing."""
    members = [module for module in modules() if inside(module, f"samestyle.{room}")]
    found = [i for module in members for i in load_time_imports(module) if inside(i.imported, "samestyle.settings")]
    assert_none(found, f"samestyle.{room} loads without the settings")


def test_serving_uses_little():
    allowed = [f"samestyle.{name}" for name in ("serving", "errors", "release", "index", "catalogue")]
    allowed += ["samestyle.encoder.preprocessing", "samestyle.encoder.runtime"]
    found = [
        i
        for i in imports()
        if inside(i.importer, "samestyle.serving")
        and inside(i.imported, "samestyle")
        and not inside(i.imported, *allowed)
    ]
    assert_none(found, f"serving imports only {', '.join(allowed)}")


def test_the_web_application_reads_through_serving():
    allowed = [f"samestyle.{name}" for name in ("web", "serving", "errors", "release", "catalogue")]
    found = [
        i
        for i in imports()
        if inside(i.importer, "samestyle.web")
        and inside(i.imported, "samestyle")
        and i.imported != "samestyle"  # its version
        and not inside(i.imported, *allowed)
    ]
    assert_none(found, f"web imports only {', '.join(allowed)}")


def test_the_web_application_needs_no_spark_torch_or_settings():
    names = [m for m in modules() if inside(m, "samestyle.web")]
    python(IMPORT_ALL, *names, without=(*SPARK, "torch", "transformers", "pandas", "samestyle.settings"))


def test_spark_is_imported_where_spark_runs_only():
    spark_rooms = ("samestyle.tables", "udfs", "jobs")
    found = [i for i in imports() if inside(i.imported, *SPARK) and not inside(i.importer, *spark_rooms)]
    assert_none(found, f"Spark is imported only in {', '.join(spark_rooms)}")


def python(script: str, *words: str, without: tuple[str, ...] = ()) -> str:
    """Run a script in a fresh interpreter in which `without` cannot be imported; returns what it printed."""
    banned = f"import sys\nsys.modules.update(dict.fromkeys({without!r}))\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", banned + script, *words]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORT_ALL = "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"


def test_samestyle_needs_no_spark_outside_of_tables():
    names = [m for m in modules() if inside(m, "samestyle") and not inside(m, "samestyle.tables")]
    python(IMPORT_ALL, *names, without=SPARK)


def test_serving_needs_no_spark_torch_or_settings():
    names = [m for m in modules() if inside(m, "samestyle.serving")]
    python(IMPORT_ALL, *names, without=(*SPARK, "torch", "transformers", "pydantic"))


PICKLE = """
from itertools import count
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
from pyspark.accumulators import Accumulator, AddingAccumulatorParam
from pyspark.cloudpickle import dumps
from pyspark.sql.types import StringType
from samestyle.catalogue.fetch import FetchPolicy
from samestyle.catalogue.images import DecodeLimits
from samestyle.encoder.pipeline import Pipeline
from samestyle.encoder.registry import EncoderReference
from samestyle.evaluation.partial import Question
from samestyle.evaluation.queries import Queries as Asked
from samestyle.evaluation.truth import Queries
from samestyle.index.candidates import Reach
from samestyle.index.nodes import GraphParameters
from samestyle.release.manifest import Shard
from samestyle.release.store import LocalStore, ObjectRef
from samestyle.tables.counter import Counter
from udfs import display, embed, evaluate, features, search, shards, verification

ids = count()
context = SimpleNamespace(accumulator=lambda zero: Accumulator(next(ids), zero, AddingAccumulatorParam(zero)))
store = LocalStore(sys.argv[1])
one = ObjectRef("objects/" + 64 * "0", 64 * "0", 1)
placed = [search.PlacedShard(0, Shard(0, None, one, one, 1, 1, 0.0, False, 1, "", 0), 4)]
policy = FetchPolicy(("file",), ("/photos",), "/photos", False, 1000, 1.0, 1.0, 0, 0)
reference, limits = EncoderReference(store, "none"), DecodeLimits()
question = Question(Queries(["q"], [("a",)], [None], [None], ["t"], {"image": np.zeros((1, 4), np.float32)}))
pipeline = Pipeline(policy, limits)
asked = Asked(np.zeros((1, 4), np.float32), ("perturbed",), (None,))
with patch("pyspark.sql.udf._parse_datatype_string", return_value=StringType()):  # else the JVM reads the type
    column = embed.column_udf(reference, pipeline)
made = {
    "display_writer": display.display_writer(store),
    "embed_udf": embed.embed_udf(reference, pipeline, Counter(context, ("fetch",)).add),
    "column_udf": column.func,
    "node_reader": shards.node_reader(placed, store),
    "shard_builder": shards.shard_builder({0: (GraphParameters(4, 4, 10, 1), 1)}, {1: 1}, store),
    "vector_sampler": search.vector_sampler(placed, store, 1, {0: 1}, {0: []}),
    "recall_measurer": search.recall_measurer(placed, store, {0: asked}, 1, (10,)),
    "candidate_finder": search.candidate_finder(placed, store, [Reach(1, 10)]),
    "item_reader": search.item_reader(placed, store),
    "feature_maker": features.feature_maker(reference, policy, limits, 2, 1, Counter(context).add),
    "photo_maker": features.photo_maker(reference, policy, limits, Counter(context).add),
    "best_scorer": evaluate.best_scorer(question),
    "rank_counter": evaluate.rank_counter(question, {"i-i": np.zeros(1, np.float32)}),
    "top_finder": evaluate.top_finder(question, 1),
    "object_verifier": verification.object_verifier(store),
}
for name, function in made.items():
    print(name, dumps(function).hex())
"""

# Opens what stands in the file, factory by factory; prints what failed, and our modules that came with it.
UNPICKLE = """
from pyspark import cloudpickle

for line in open(sys.argv[1]):
    factory, sent = line.split()
    try:
        assert callable(cloudpickle.loads(bytes.fromhex(sent)))
        print(factory, "opened")
    except ImportError as error:
        chain = error.__traceback__
        while chain.tb_next:
            chain = chain.tb_next
        print(f"{factory}: {chain.tb_frame.f_code.co_filename}, line {chain.tb_lineno}: {error}")
print(*[name for name in sys.modules if name.partition(".")[0] in ("samestyle", "udfs")])
"""


@pytest.fixture(scope="module")
def sent(tmp_path_factory) -> Path:
    """What Spark would send to workers: a factory and its bytes in hex a line."""
    folder = tmp_path_factory.mktemp("sent")
    (folder / "functions").write_text(python(PICKLE, str(folder / "store")))
    return folder / "functions"


def test_what_the_factories_send_needs_little_on_workers(sent):
    *opened, loaded = python(UNPICKLE, str(sent), without=NOT_ON_WORKERS).splitlines()
    failed = [line for line in opened if not line.endswith(" opened")]
    assert not failed, "\n".join([f"workers do without {', '.join(NOT_ON_WORKERS)}, but", *failed])
    foreign = [
        i
        for module in loaded.split()
        for i in load_time_imports(module)
        if i.imported.partition(".")[0] not in {*ROOMS, *sys.stdlib_module_names, *WORKER_LIBRARIES}
    ]
    assert_none(foreign, f"workers have {', '.join(sorted(WORKER_LIBRARIES))}")
    assert "samestyle.encoder.contents" in loaded.split()


def test_every_factory_that_a_job_uses_was_sent(sent):
    names = {
        alias.name
        for path in JOBS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and inside(node.module or "", "udfs")
        for alias in node.names
    }
    in_notebooks = {"column_udf"}
    assert names | in_notebooks == {line.split()[0] for line in sent.read_text().splitlines()}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_one_screen_with_run_and_main(path):
    tree = ast.parse(path.read_text())
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert functions == ["run", "main"]
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert ast.get_docstring(tree), "its first line is what ./spark-submit.sh lists"
    assert len(path.read_text().splitlines()) <= 80


def test_one_process_collects_all_tests():
    """As `make soak` does: of two files of one name pytest imports one, and stops at the other."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
