"""The README and docs against the code that they speak of, as far as that takes no JVM."""

import dataclasses
import re
from pathlib import Path

import pytest
from pages import PAGES, ROOT, Command, anchors, commands, links, read_page
from releases import make_manifest

from samestyle.errors import SamestyleError
from samestyle.release.gate import RULES
from samestyle.release.manifest import Manifest, NeighbourProbe, Probes, QualityProbe, RecallSlice, VectorProbe
from samestyle.release.store import LocalStore
from samestyle.settings import Settings

# Blocks of these languages are run, line by line, by tests/shipping/test_docs.py.
RUN = ("bash",)
# Other commands: which test runs them, or what they run. A command ends where placeholders and values begin.
SAMESTYLE = r"(\.venv/bin/)?samestyle "
ELSEWHERE = {
    "shipping/test_docs.py": {
        "test_the_commands_of_the_pages_end_well": r"(time )?\./spark-submit\.sh nightly( demo\.\S+)*|make .*",
        "test_the_web_application_answers_as_its_page_says": SAMESTYLE + "serve( --env dev .*)?",
    },
    "shipping/test_packed.py": {
        "test_a_night_on_executors_that_have_the_archive_alone": r"(python3\.11 -m venv|HNSWLIB.*|data/packed/.*) .*",
    },
    "shipping/test_setup.py": {"test_what_is_installed_is_announced": r"\./spark-submit\.sh setup"},
    "shipping/test_submit.py": {
        "test_words_before_the_dashes_go_to_the_job": r"(time )?\./spark-submit\.sh --print-command nightly.*",
    },
    "jobs/test_nightly.py": {
        "test_a_dry_run_prints_the_plan": r"\./spark-submit\.sh nightly( \S+=\S+)* --dry-run",
    },
    "jobs/test_difference.py": {"test_a_trial_on_a_sample": r"\./spark-submit\.sh nightly --sample 0\.01"},
    "jobs/test_examples.py": {"test_every_row": r"\./spark-submit\.sh nightly --env dev --settings conf/examples/.*"},
    "spark/test_neighbours.py": {"test_lists_are_those_of_a_brute": r"\./spark-submit\.sh neighbours.*"},
    "jobs/test_refusals.py": {"test_each_stage_runs_alone": r"\./spark-submit\.sh (build_index|publish).*"},
    "jobs/test_maintenance.py": {"test_what_a_kept_release": r"\./spark-submit\.sh maintain.*"},
    "jobs/test_sample_pairs.py": {"test_the_funnel_of_the_demo": r"\./spark-submit\.sh sample_pairs.*"},
    "jobs/test_train.py": {"test_a_candidate_comes_out": r"\./spark-submit\.sh train.*"},
    "jobs/test_calibrate.py": {"test_calibration_registers": r"\./spark-submit\.sh calibrate.*"},
    "jobs/test_evaluate_encoder.py": {"test_every_direction": r"\./spark-submit\.sh evaluate_encoder.*"},
    "jobs/test_backfill.py": {
        "test_another_encoder_takes_over": r"\./spark-submit\.sh backfill .*|" + SAMESTYLE + "encoders register.*",
    },
    "core/test_cli.py": {
        "test_rollback_and_back": SAMESTYLE + "releases rollback.*",
        "test_verify_reads_every_byte": SAMESTYLE + "releases verify( [^-].*)?",
        "test_an_export_is_verified": SAMESTYLE + "releases verify --dir.*",
        "test_gc_only_tells": SAMESTYLE + "releases gc.*",
        "test_a_candidate_is_promoted": SAMESTYLE + "releases promote .*",
        "test_takedowns_from_the_command_line": SAMESTYLE + "deny .*",
        "test_encoders_are_listed": SAMESTYLE + "encoders list",
        "test_two_encoders_are_compared": SAMESTYLE + "encoders compare .*",
        "test_promotion_from_the_command_line": SAMESTYLE + "encoders promote .*",
    },
    "core/test_web.py": {"test_ids_may_hold_anything": r"curl -G --data-urlencode .*"},
    "core/test_encoder.py": {"test_export_does_not": r"python -m samestyle\.encoder\.export \S+ --kind late_fusion"},
    "core/test_encoder_unified.py": {"test_": r"python -m samestyle\.encoder\.export \S+ --kind unified .*"},
    "core/test_dual_stream.py": {"test_": r"python -m samestyle\.encoder\.export \S+ --kind dual_stream .*"},
    "core/test_settings.py": {"test_": r"(\.venv/bin/)?python -m samestyle\.reference"},
}
# What no test runs, and why.
BY_HAND = {
    r".*(--env prod|/etc/samestyle\.yaml).*": "names a cluster's or an operator's own host",
    r"\.venv/bin/uv pip compile .*": "asks the package index for newer versions",
    r"pip install .*": "installs what set-up has installed",
    r"python -m samestyle\.training\.starter --data DIR .*": "trains for hours, on data sets that are not ours to ship",
    r"python benchmarks/encoder_quality\.py --data DIR.*": "measures data sets that are not ours to ship",
    r"(\.venv/bin/)?python (-m benchmarks\.|benchmarks/).*": "measures for minutes, on a machine that is to be quiet",
    r".*python -m pytest .*": "is a test itself",
    r"python (notebooks/run|docs/images/screenshots)\.py": "draws what is to be looked at, from two nights of the demo",
}
TESTS = [(f"tests/{file}", name, pattern) for file, tests in ELSEWHERE.items() for name, pattern in tests.items()]
OTHERS = [command for page in PAGES for command in commands(page) if command.block not in RUN]


def words_of(command: Command) -> str:
    """Without what explains it, some blanks away."""
    return command.text.partition("   ")[0]


@pytest.mark.parametrize("command", OTHERS, ids=lambda command: f"{command.page}: {command.text}"[:80])
def test_every_command_of_the_pages_is_run_by_a_test_or_says_why_not(command: Command) -> None:
    words = words_of(command)
    known = [pattern for pattern in (*(test[-1] for test in TESTS), *BY_HAND) if re.fullmatch(pattern, words)]
    assert known, f"{command.page} shows {words!r}: put it into a ```bash block, or name the test that runs it here"


def test_the_tests_that_run_commands_are_there() -> None:
    for path, name, pattern in TESTS:
        assert f"def {name}" in (ROOT / path).read_text(), f"{path}::{name}"
        assert any(re.fullmatch(pattern, words_of(command)) for command in OTHERS), pattern


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for path, anchor in links(page):
        assert (ROOT / path).exists(), path
        if anchor and path.endswith(".md"):
            assert anchor in anchors(path), f"{path}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += [path for path, _ in links(page) if path.endswith(".md") and path not in reached]
    assert set(PAGES) <= reached


# --- operations: what to do at 3 a.m.


def rows_of(section: str) -> list[list[str]]:
    """The rows of the first table of a section of docs/operations.md, without its head."""
    text = read_page("docs/operations.md").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_exit_code_is_explained() -> None:
    codes = {0} | {error.exit_code for error in (SamestyleError, *SamestyleError.__subclasses__())}
    assert {int(row[0]) for row in rows_of("Exit codes")} == codes
    assert all(map(all, rows_of("Exit codes")))


def manifest_for_every_rule(folder: Path) -> Manifest:
    """With all that a rule may ask for."""
    manifest = make_manifest(LocalStore(folder / "store"), folder)
    slices = (RecallSlice("category", "home/mugs", 0.9, 0.8, 1.0, 10),)
    indexes = [
        dataclasses.replace(
            index,
            recall_slices=slices,
            shards=tuple(dataclasses.replace(shard, recall_low=0.8, recall_high=1.0) for shard in index.shards),
        )
        for index in manifest.indexes
    ]
    probes = Probes(
        (VectorProbe("image", 10, 1, 0.5, 0.5),),
        (NeighbourProbe("search", 1, 2, 0.5),),
        (QualityProbe("e", "m-m", 1, 0),),
    )
    return dataclasses.replace(manifest, indexes=tuple(indexes), probes=probes)


def test_every_rule_of_the_gate_is_explained(tmp_path: Path) -> None:
    manifest, asked = manifest_for_every_rule(tmp_path), set()
    for rule in RULES:
        found = {result.rule for result in rule(manifest, manifest, Settings().gate)}
        assert found, f"{rule.__name__} has nothing to say on this manifest: give it what it asks for"
        asked |= found
    explained = {row[0].strip("`"): row for row in rows_of("The gate")}
    kinds = {"MODULE": "(search|homepage)", "VIEW": "(image|text|fused)", "DIRECTION": "[ifmt]-[ifmt]"}
    patterns = {name: re.sub("|".join(kinds), lambda found: kinds[found.group()], name) for name in explained}
    for rule in asked:
        assert [name for name, pattern in patterns.items() if re.fullmatch(pattern, rule)], f"{rule} has no entry"
    for name, pattern in patterns.items():
        assert [rule for rule in asked if re.fullmatch(pattern, rule)], f"there is no rule {name}"
        assert all((explained[name][1], explained[name][3])), f"{name} lacks what it means, or what to do"


@pytest.mark.parametrize("section", ["The gate", "The preflight"])
def test_the_limits_are_those_of_the_settings(section: str) -> None:
    shown = re.findall(r"`(gate|preflight)\.(\w+)`, ([\d.]+)", "\n".join(" | ".join(row) for row in rows_of(section)))
    settings = Settings()
    for room, name, value in shown:
        assert float(value) == float(getattr(getattr(settings, room), name)), name
    limits = {name for room, name, _ in shown} | set(
        re.findall(rf"`{section[4:]}\.(\w+)`", read_page("docs/operations.md"))
    )
    assert limits >= {name for name in type(getattr(settings, section[4:])).model_fields if name != "probes"}
