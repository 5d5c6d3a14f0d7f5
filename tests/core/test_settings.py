"""The settings tree, its file, its page and its errors."""

import pytest
import yaml

from samestyle.errors import UsageError
from samestyle.reference import ROOT, base_yaml, settings_page
from samestyle.settings import Settings, describe, load_settings, to_yaml


def test_the_file_and_the_page_say_what_the_tree_says():
    assert (ROOT / "conf" / "base.yaml").read_text() == base_yaml()
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page()


def test_base_yaml_holds_exactly_the_defaults():
    assert Settings.model_validate(yaml.safe_load(base_yaml())) == Settings()


def test_every_key_has_a_sentence():
    assert [key for key, field in describe(Settings) if not (field.description or "").endswith(".")] == []


@pytest.mark.parametrize("env", ["demo", "dev", "prod"])
def test_every_environment_loads_and_prints_what_it_read(env):
    settings = load_settings(env)
    assert yaml.safe_load(to_yaml(settings))["env"] == env


def test_later_layers_win(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("demo: {day: 3, offers: 100}\n")
    settings = load_settings("demo", own, ["demo.day=4", "catalogue.columns.item_id=sku", "images.roots=[/a, /b]"])
    assert (settings.demo.day, settings.demo.offers, settings.demo.seed) == (4, 100, 7)
    assert settings.catalogue.columns.item_id == "sku"
    assert settings.images.roots == ("/a", "/b")


def test_the_environment_variable_names_the_default(monkeypatch):
    monkeypatch.setenv("SAMESTYLE_ENV", "dev")
    assert load_settings().env == "dev"


def test_a_fourth_module_is_a_fourth_block():
    settings = load_settings("demo", None, ["modules.outlet.where=price < 10"])
    assert settings.modules["outlet"].views == ("fused",)
    assert settings.own_filters == ("outlet",)


def test_a_default_module_can_be_switched_off():
    assert set(load_settings("demo", None, ["modules.history=null"]).modules) == {"search", "homepage"}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("demo.dya=2", "unknown setting demo.dya: did you mean demo.day"),
        ("modules.search.shard_row=3", "did you mean modules.search.shard_rows"),
        ("catalog.path=x", "did you mean catalogue.path"),
        ("demo.day=x", "demo.day is 'x': Input should be a valid integer"),
        ("modules={search: null, homepage: null, history: null}", "setting modules is {}"),
        ("tables.format=orc", "tables.format is 'orc'"),
        ("gate.recall_min=1.5", "gate.recall_min is 1.5"),
        ("demo.day", "settings are given as a.b=value"),
        ("demo=3", "setting demo is 3"),
        ("demo.day=[", "cannot read"),
    ],
)
def test_wrong_words_name_the_setting_and_the_way_out(word, sentence):
    with pytest.raises(UsageError) as caught:
        load_settings("demo", None, [word])
    assert sentence in str(caught.value)


def test_an_unknown_environment_and_an_unreadable_file_are_named(tmp_path):
    with pytest.raises(UsageError, match="unknown environment 'demi': choose one of demo, dev, prod"):
        load_settings("demi")
    with pytest.raises(UsageError, match="cannot read settings file"):
        load_settings("demo", tmp_path / "absent.yaml")


def test_the_tree_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        load_settings("demo").demo.day = 2
