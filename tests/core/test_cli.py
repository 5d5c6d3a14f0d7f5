import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from encoders import evaluation, write_folder
from releases import flip_bit, judged, make_manifest, publish_small, small_catalogue

from samestyle import cli
from samestyle.encoder import registry
from samestyle.release.lease import Holder, Lease
from samestyle.release.publish import list_releases, publish, read_pointer
from samestyle.release.store import LocalStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "root" / "store")


@pytest.fixture
def samestyle(tmp_path, capsys):
    """Call the script on a root of its own; returns exit code, what was printed, and the errors."""

    def call(*words):
        code = cli.main([f"paths.root={tmp_path / 'root'}", *words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def three(store, tmp_path):
    parent = None
    for release_id in ("r1", "r2", "r3"):
        catalogue = small_catalogue(40, seed=int(release_id[1:]))
        publish_small(store, tmp_path / "built", release_id, parent, catalogue=catalogue)
        parent = release_id
    return store


def test_before_the_first_night_there_is_nothing(samestyle):
    code, out, _ = samestyle("releases", "list")
    assert code == 0
    assert out.startswith("no releases in")
    code, _, err = samestyle("releases", "show")
    assert code == 2
    assert err.startswith("samestyle: channel current of")
    assert "names no release yet" in err


def test_list_shows_every_release_and_what_the_channel_names(samestyle, three):
    code, out, _ = samestyle("releases", "list")
    lines = out.splitlines()
    assert code == 0
    assert [line.split()[0] for line in lines] == ["release", "r1", "r2", "r3"]
    assert ["current" in line for line in lines] == [False, False, False, True]
    assert "44" in lines[1]  # 40 nodes, every tenth with a second item


def test_list_goes_on_where_one_release_cannot_be_read(samestyle, three):
    three.put("releases/r1/manifest.json", b"{")
    code, out, _ = samestyle("releases", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "not readable" in line] == ["r1"]


def test_show_tells_counts_recall_and_the_gate(samestyle, three):
    code, out, _ = samestyle("releases", "show", "r2")
    assert code == 0
    for text in ("r2", "parent          r1", "44 fresh", "search/fused", "0.970 to 1.000"):
        assert text in out
    assert re.search(r"^recall search/fused +passed  recall@10 of search/fused is 0.9900", out, re.M)


def test_verify_reads_every_byte(samestyle, three):
    code, out, _ = samestyle("releases", "verify")
    assert code == 0
    assert out.startswith("release r3 is sound: 5 objects")
    flip_bit(three.path(next(iter(three.list("objects/")))), 10)
    codes = [samestyle("releases", "verify", name) for name in ("r1", "r2", "r3")]
    damaged = [err for code, _, err in codes if code == 1]
    assert damaged
    assert "has sha256" in damaged[0]


def test_rollback_and_back(samestyle, three):
    assert samestyle("releases", "rollback")[:2] == (0, "channel current names r2 now, r3 before\n")
    assert samestyle("releases", "rollback", "r3", "--quick")[0] == 0
    assert read_pointer(three, "current").release_id == "r3"
    code, out, _ = samestyle("releases", "history")
    moves = [tuple(line.split()[1:]) for line in out.splitlines()]
    published = [("publish", "r1"), ("publish", "r2"), ("publish", "r3")]
    assert (code, moves) == (0, [("move", "release"), *published, ("rollback", "r2"), ("rollback", "r3")])
    assert "has named nothing yet" in samestyle("releases", "history", "--channel", "candidate")[1]
    code, _, err = samestyle("releases", "rollback", "r9")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no release r9" in err


def test_a_candidate_is_promoted_and_taken_back(samestyle, three, tmp_path):
    candidate = judged(make_manifest(three, tmp_path / "built", "r4", "r3"))
    publish(three, candidate, "candidate", None)
    code, _, err = samestyle("releases", "promote", "nobody")
    assert code == 2
    assert "channel nobody names no release" in err
    assert samestyle("releases", "promote", "candidate")[:2] == (0, "channel current names r4 now, r3 before\n")
    assert samestyle("releases", "promote", "candidate")[0] == 2  # it is there already
    assert samestyle("releases", "rollback")[1] == "channel current names r3 now, r4 before\n"
    actions = [(change.action, change.release_id) for change in read_pointer(three, "current").history]
    assert actions[-2:] == [("promote", "r4"), ("rollback", "r3")]


def test_a_damaged_candidate_is_not_promoted(samestyle, three, tmp_path):
    candidate = judged(make_manifest(three, tmp_path / "built", "r4", "r3"))
    publish(three, candidate, "candidate", None)
    flip_bit(three.path(candidate.indexes[0].shards[0].graph.key), 1000)
    code, _, err = samestyle("releases", "promote", "candidate")
    assert code == 1
    assert "release r4 is damaged" in err
    assert read_pointer(three, "current").release_id == "r3"


def test_diff_tells_what_came_and_went_and_what_readers_fetch(samestyle, store, tmp_path):
    before, after = small_catalogue(60), small_catalogue(60)
    after.rows[:] = [row for row in after.rows if row["item_id"] != "i00000b"]
    after.rows[5]["item_id"] = "new"
    publish_small(store, tmp_path / "built", "r1", catalogue=before, shards=2)
    publish_small(store, tmp_path / "built", "r2", "r1", catalogue=after, shards=2)
    code, out, _ = samestyle("releases", "diff", "r1", "r2")
    assert code == 0
    row = next(line for line in out.splitlines() if line.startswith("search/fused"))
    assert re.split(r"  +", row) == [
        "search/fused", "66", "65", "1 (new)", "2 (i00000b, i00005a)", "0.990 -> 0.990"
    ]  # fmt: skip
    # both graphs and the encoder stay; the two item files are others
    assert re.search(r"^readers +3 objects shared, 0.0 MB to fetch$", out, re.M)
    assert "encoder  " not in out
    assert samestyle("releases", "diff", "r1", "r9")[0] == 2


def test_an_export_is_verified_where_it_lies(samestyle, three, tmp_path):
    folder = tmp_path / "out"
    samestyle("releases", "export", str(folder))
    code, out, _ = samestyle("releases", "verify", "--dir", str(folder))
    assert code == 0
    assert out.startswith(f"the export in {folder} is sound")
    lines = folder / "search/fused/shard-00000.items.jsonl"
    damages = {
        "shard-00001.hnsw has sha256": lambda: flip_bit(folder / "search/fused/shard-00001.hnsw", 2000),
        "shard-00000.items.jsonl is not what": lambda: lines.write_text(lines.read_text().replace("true", "false", 1)),
        "card.json is missing": (folder / "encoder/card.json").unlink,
        "left.over is none of the release's": (folder / "left.over").touch,
    }
    for said, damage in damages.items():
        damage()
        code, _, err = samestyle("releases", "verify", "--dir", str(folder))
        assert code == 1
        assert said in err
        shutil.rmtree(folder)
        samestyle("releases", "export", str(folder))
    assert samestyle("releases", "verify", "--dir", str(tmp_path))[0] == 2


def test_takedowns_from_the_command_line(samestyle, three):
    assert samestyle("deny", "list")[1].startswith("nothing is denied")
    code, out, _ = samestyle("deny", "add", "i1", "i2", "--reason", "a court said so")
    assert (code, out.splitlines()[0]) == (0, "2 items denied, 0 were already")
    assert samestyle("deny", "add", "i2", "i3")[1].startswith("1 item denied, 1 were already")
    _, out, _ = samestyle("deny", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["item", "i1", "i2", "i3"]
    assert "a court said so" in out.splitlines()[1]
    assert samestyle("deny", "remove", "i1", "i9")[1] == "1 item allowed again, 1 were not denied\n"


def test_an_id_that_looks_like_a_setting_can_be_denied(samestyle, three):
    assert samestyle("deny", "add", "--reason", "r", "--", "release.keep=1", "--odd")[1].startswith("2 items denied")
    assert samestyle("deny", "remove", "--", "release.keep=1")[1].startswith("1 item allowed again")


def test_a_store_elsewhere_is_named_by_the_settings(samestyle, s3, tmp_path):
    publish_small(s3, tmp_path / "built")
    code, out, _ = samestyle("releases", "verify", f"release.store={s3.uri}")
    assert (code, out[:19]) == (0, "release r1 is sound")
    assert samestyle("deny", "add", "i1", f"release.store={s3.uri}")[0] == 0
    assert "denylist" in s3.list()


def test_a_channel_by_name(samestyle, three):
    code, _, err = samestyle("releases", "rollback", "--channel", "candidate")
    assert code == 2
    assert "channel candidate" in err


def test_gc_only_tells_unless_it_is_to_delete(samestyle, three):
    now = ("release.keep=1", "release.grace_hours=0")
    code, out, _ = samestyle("releases", "gc", *now)
    assert code == 0
    assert "would remove release r1\n" in out
    assert out.endswith("nothing was changed: add --delete\n")
    assert list_releases(three) == ["r1", "r2", "r3"]
    (three.root / "objects" / ".tmp-0123").touch()
    code, out, _ = samestyle("releases", "gc", "--delete", *now)
    assert code == 0
    assert "removed 1 half-written file of runs that were killed\n" in out
    assert "removed 1 release and 2 objects" in out  # its graphs; the other files are those of later releases too
    assert list_releases(three) == ["r2", "r3"]


def test_gc_waits_for_no_run(samestyle, three):
    with Lease.acquire(three, "nightly", Holder.of_this_process("the-night"), 60):
        code, _, err = samestyle("releases", "gc", "--delete")
    assert code == 4
    assert "held by run the-night" in err


def test_export_writes_a_folder(samestyle, three, tmp_path):
    code, out, _ = samestyle("releases", "export", str(tmp_path / "out"))
    assert code == 0
    assert "exported release r3" in out
    assert (tmp_path / "out/search/fused/shard-00000.hnsw").is_file()
    assert samestyle("releases", "export", str(tmp_path / "out"))[0] == 2
    assert samestyle("releases", "export", str(tmp_path / "old"), "--id", "r1")[0] == 0
    assert json.loads((tmp_path / "old/manifest.json").read_text())["release_id"] == "r1"


def write_run(root, run_id, text):
    folder = root / "runs" / run_id
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(text)


def test_runs_are_listed_with_their_counts(samestyle, tmp_path):
    assert samestyle("runs", "list")[1].startswith("no runs in")
    good = {"started_at": "2026-01-02", "outcome": "done", "counts": {"read": 1234}, "release_id": "r1"}
    write_run(tmp_path / "root", "b", json.dumps(good))
    write_run(tmp_path / "root", "a", json.dumps({**good, "started_at": "2026-01-03", "outcome": "refused"}))
    write_run(tmp_path / "root", "c", "{")
    code, out, _ = samestyle("runs", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["run", "c", "b", "a"]
    assert "1,234" in out
    assert "not readable" in out


def test_one_run_is_shown(samestyle, tmp_path):
    assert samestyle("runs", "show")[0] == 2
    write_run(
        tmp_path / "root",
        "a",
        json.dumps({"run_id": "a", "error": None, "counts": {"read": 1234, "fresh": 5}}),
    )
    assert (
        samestyle("runs", "show")[1]
        == samestyle("runs", "show", "a")[1]
        == ("run_id  a\ncounts  read 1,234, fresh 5\n")
    )
    code, _, err = samestyle("runs", "show", "../../x")
    assert code == 2
    assert "there is no run ../../x" in err


def test_recall_time_and_engine_of_a_run_are_shown(samestyle, tmp_path):
    recall = {"search/fused": {"k": 10, "value": 0.97, "low": 0.94, "high": 0.99, "queries": 500}}
    told = {"outcome": "refused", "recall": recall, "timings_s": {"embed": 65.0}, "gate_refused": ["one", "two"]}
    write_run(tmp_path / "root", "a", json.dumps(told))
    engine = {"rows": 50, "seconds": 10.0, "busy_s": {}, "limited_by": "forward"}
    (tmp_path / "root/runs/a/throughput.json").write_text(json.dumps(engine))
    lines = samestyle("runs", "show")[1].splitlines()
    assert lines == [
        "outcome       refused",
        "gate_refused  one",
        "gate_refused  two",
        "engine        5.0 contents/s, limited by forward",
        "",
        "index         recall      interval          queries",
        "search/fused  @10 0.9700  0.9400 to 0.9900      500",
        "",
        "stage  time",
        "embed  1:05 min",
    ]


@pytest.fixture
def two(samestyle, store, tmp_path):
    """Ids of two registered encoders, that are right for 120 and 160 of the same 200 queries."""
    ids = []
    for number, right in ((1, 120), (2, 160)):
        ids.append(write_folder(tmp_path / str(number), number))
        assert samestyle("encoders", "register", str(tmp_path / str(number)))[0] == 0
        registry.record_evaluation(store, ids[-1], "shop-1", *evaluation(right))
    return ids


def test_encoders_are_listed_with_what_was_measured(samestyle, store, two):
    store.put("encoders/current", registry.point_to(two[1]))
    store.put("encoders/broken/encoder.json", b"{")
    code, out, _ = samestyle("encoders", "list")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert list(lines) == ["encoder", "broken", *two]
    assert "not readable" in lines["broken"]
    row = re.split(r"  +", lines[two[0]])
    assert row[1:] == ["late_fusion", "256", "the catalogue of a drawn shop", "2026-01-01T00:00:00", "0.600"]
    assert [line.endswith("current") for line in lines.values()] == [False, False, False, True]


def test_an_encoder_is_shown_by_the_beginning_of_its_id(samestyle, two):
    code, out, _ = samestyle("encoders", "show", two[0][:4])
    assert code == 0
    assert re.search(rf"^encoder +{two[0]}$", out, re.M)
    assert re.search(r"^m-m +0\.800 +0\.600 +1\.000 +1\.000 +1\.000 +200$", out, re.M)
    assert "# Encoder" in out
    assert samestyle("encoders", "show", "none")[0] == 2


def test_two_encoders_are_compared_query_by_query(samestyle, store, two):
    code, out, _ = samestyle("encoders", "compare", *two)
    assert code == 0
    row = next(line for line in out.splitlines() if "m-m" in line)
    assert re.match(r"shop +m-m +200 +0\.600 +0\.800 +\+0\.200 +\+0\.1\d\d to \+0\.2\d\d +better", row)
    assert "worse" in samestyle("encoders", "compare", *reversed(two))[1]
    assert "no clear difference" in samestyle("encoders", "compare", two[0], two[0])[1]


def test_only_what_was_asked_alike_is_compared(samestyle, store, two):
    registry.record_evaluation(store, two[0], "alone", {"mean": {}})
    code, _, err = samestyle("encoders", "compare", *two, "--evaluation", "alone")
    assert code == 2
    assert f"{two[0]} has shop-" in err
    assert "evaluate_encoder --encoder ID" in err
    registry.record_evaluation(store, two[1], "alone", {"mean": {}})
    code, _, err = samestyle("encoders", "compare", *two)
    assert code == 2
    assert "has no results by query" in err


def test_promotion_from_the_command_line(samestyle, three, two):
    code, _, err = samestyle("encoders", "promote", two[0])
    assert code == 3
    assert f"run ./spark-submit.sh backfill --encoder {two[0]}" in err
    code, _, err = samestyle("encoders", "promote", two[0], "encoder.path=/elsewhere")
    assert code == 2
    assert "remove encoder.path" in err
    code, out, _ = samestyle("encoders", "promote", two[0], "--force", "a test")
    assert (code, registry.current_encoder(three)) == (0, two[0])
    assert out.startswith(f"the next run uses encoder {two[0]}, none before")


def test_wrong_settings_and_usage_end_with_2(samestyle, capsys):
    code, _, err = samestyle("releases", "list", "relase.keep=3")
    assert code == 2
    assert "release" in err
    assert samestyle("releases", "list", "--settings", "/nowhere.yaml")[0] == 2
    for words in (["releases"], ["nothing"], []):
        with pytest.raises(SystemExit) as error:
            cli.main(words)
        assert error.value.code == 2
    capsys.readouterr()


def test_options_stand_where_one_likes(samestyle, three):
    for words in (["--env", "dev", "releases", "list"], ["releases", "list", "--env", "dev"]):
        code, out, _ = samestyle(*words)
        assert code == 0
        assert "r3" in out


BANNED = ("pyspark", "py4j", "torch", "pandas", "transformers", "cv2", "onnxruntime", "tokenizers")


@pytest.mark.parametrize("words", [["releases", "verify"], ["encoders", "list"]])
def test_it_needs_neither_java_nor_spark_nor_torch(tmp_path, three, words):
    script = (
        "import sys\n"
        "class Ban:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in " + repr(BANNED) + ":\n"
        "            raise ImportError(name + ' is banned here')\n"
        "sys.meta_path.insert(0, Ban())\n"
        "from samestyle.cli import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words, f"paths.root={tmp_path / 'root'}"],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(("release r3 is sound", "no encoders in"))
