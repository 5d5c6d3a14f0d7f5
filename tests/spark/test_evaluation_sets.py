"""Who asks whom, and what is right: small catalogues that can be checked by eye, and settings that cannot be met."""

import pandas as pd
import pytest

from samestyle.errors import UsageError
from samestyle.evaluation.truth import ANNOTATED, BETWEEN, WITHIN
from samestyle.settings import Catalogue, Evaluation, EvaluationPairs, Paths, Settings
from samestyle.tables.evaluation_sets import evaluation_sets
from samestyle.tables.schemas import PAIRS
from samestyle.tables.warehouse import Warehouse

SHOP = [
    ("mug 1", "owl mug", "mug", "Home/Mugs", "test"),
    ("mug 2", "mug with owl", "mug", "Home/Mugs", "train"),
    ("bowl", "blue bowl", "bowl", "Home/Bowls", "test"),
    ("shoe", "running shoe", None, "Shoes", "train"),
]


@pytest.fixture
def shop(tmp_path):
    frame = pd.DataFrame(SHOP, columns=["item_id", "title", "style_group", "category", "hand"])
    frame.to_parquet(tmp_path / "shop.parquet")
    return Catalogue(path=str(tmp_path / "shop.parquet"))


def given(spark, catalogue, **evaluation):
    return evaluation_sets(spark, Settings(catalogue=catalogue, evaluation=Evaluation(**evaluation)))


def truth(one):
    """Item to (in the pool, labels, wanted)."""
    rows = one.rows.select("item_id", "in_pool", "labels", "wanted").collect()
    return {r["item_id"]: (r["in_pool"], sorted(r["labels"]), r["wanted"] and sorted(r["wanted"])) for r in rows}


def pairs_file(tmp_path, rows):
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    return EvaluationPairs(path=str(tmp_path / "pairs.csv"), format="csv")


def test_every_product_queries_the_rest_of_a_style_column(spark, shop):
    (one,) = given(spark, shop)
    assert (one.name, one.copies) == ("style", WITHIN)
    assert truth(one) == {
        "mug 1": (True, ["mug"], ["mug"]),
        "mug 2": (True, ["mug"], ["mug"]),
        "bowl": (True, ["bowl"], None),  # the only one of its style has no answer
        "shoe": (True, [], None),
    }
    assert {row["item_id"]: row["slice"] for row in one.rows.collect()}["mug 1"] == "Home"


def test_styles_that_training_has_shown_do_not_ask(spark, shop, tmp_path):
    twins = [(f"{style} {hand}", "title", style, "Home", hand) for style in ("cup", "jug", "pan") for hand in "ab"]
    frame = pd.DataFrame(twins, columns=["item_id", "title", "style_group", "category", "hand"])
    frame.to_parquet(tmp_path / "shop.parquet")
    settings = Settings(catalogue=shop, evaluation=Evaluation(unseen=True), paths=Paths(root=str(tmp_path)))
    table = Warehouse.of(spark, settings).pairs
    rows = [("cup a", "pan b", None, 1, 0.5, None, 1, "train"), ("jug a", "jug b", None, 1, 0.5, None, 2, "test")]
    table.overwrite(spark.createDataFrame(rows, PAIRS), "run")
    (one,) = evaluation_sets(spark, settings)
    assert {item for item, (_, _, wanted) in truth(one).items() if wanted} == {"jug a", "jug b"}


def test_one_split_queries_another(spark, shop):
    (one,) = given(spark, shop, split_column="hand", query_split="test", pool_split="train")
    assert one.copies == BETWEEN
    assert truth(one) == {
        "mug 1": (False, ["mug"], ["mug"]),
        "mug 2": (True, ["mug"], None),
        "bowl": (False, ["bowl"], None),
        "shoe": (True, [], None),
    }


def test_own_pairs_stand_for_their_groups_and_unknown_ids_are_said(spark, shop, tmp_path, capsys):
    rows = [
        {"trigger_id": "mug 1", "offer_id": "mug 2", "label": None, "style_group": 7, "split": "test"},
        {"trigger_id": "mug 2", "offer_id": "gone", "label": None, "style_group": 7, "split": "test"},
        {"trigger_id": "bowl", "offer_id": "shoe", "label": 0, "style_group": 8, "split": "test"},
        {"trigger_id": "mug 1", "offer_id": "shoe", "label": None, "style_group": 9, "split": "train"},
    ]
    pairs, style = given(spark, shop, pairs=pairs_file(tmp_path, rows))
    assert (pairs.name, pairs.copies, style.name) == ("pairs", WITHIN, "style")
    assert truth(pairs) == {
        "mug 1": (True, ["group 7", "item mug 1"], ["group 7", "item mug 2"]),
        "mug 2": (True, ["group 7", "item mug 2"], ["group 7", "item gone", "item mug 1"]),
        "bowl": (True, ["item bowl"], None),
        "shoe": (True, ["item shoe"], None),
    }
    assert "1 of 5 products of" in capsys.readouterr().out


def test_public_pairs_bring_their_products(spark, shop, tmp_path):
    head = {"cate_lv1_name": "Home", "cate_name": "Mugs", "trigger_id": "1", "trigger_title": "owl mug"}
    head["trigger_img"] = "http://a/1.jpg"
    rows = [
        {**head, "recall_id": "2", "recall_title": "mug, owl", "recall_img": None, "label": 1},
        {**head, "recall_id": "3", "recall_title": "red mug", "recall_img": "3.jpg", "label": 0},
    ]
    one = given(spark, shop, pairs=pairs_file(tmp_path, rows))[0]
    assert one.copies == ANNOTATED
    assert truth(one) == {"1": (False, ["1"], ["2"]), "2": (True, ["2"], None), "3": (True, ["3"], None)}
    uris = {row["item_id"]: (row["image_uri"], row["category"], row["slice"]) for row in one.rows.collect()}
    assert uris["1"] == ("http://a/1.jpg", "Home/Mugs", "Home")
    assert uris["2"][0] is None


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"split_column": "hnad"}, "column hnad is not in the source .evaluation.split_column.: did you mean hand"),
        (
            {"split_column": "hand", "query_split": "tset", "pool_split": "train"},
            "evaluation.query_split=tset: no product has this value in column hand; its values are test, train",
        ),
        ({"query_split": "test"}, "name it with evaluation.split_column"),
        (
            {"split_column": "hand", "query_split": "train", "pool_split": "train"},
            "no query of .* has a right answer in its pool: every style has one product there",
        ),
    ],
)
def test_splits_that_cannot_be_met(spark, shop, evaluation, message):
    with pytest.raises(UsageError, match=message):
        given(spark, shop, **evaluation)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"trigger_id": "x", "offer_id": "y"}], "none of the 2 products of .* is in the catalogue"),
        (
            [{"trigger_id": "mug 1", "offer_id": "mug 2", "label": 0}],
            "no query of labelled pairs .* no pair has label 1",
        ),
        ([{"trigger_id": "mug 1", "offer_id": "gone"}], "no query of labelled pairs"),
        ([{"trigger_id": "mug 1", "offer_id": "mug 1"}], "no query of labelled pairs"),
        ([{"left": "mug 1", "right": "mug 2"}], "has the columns left, right; pairs need trigger_id and offer_id"),
    ],
)
def test_pairs_that_measure_nothing(spark, shop, tmp_path, rows, message):
    with pytest.raises(UsageError, match=message):
        given(spark, shop, pairs=pairs_file(tmp_path, rows))


def test_nothing_to_measure_on(spark, tmp_path):
    pd.DataFrame({"item_id": ["1"], "title": ["mug"]}).to_parquet(tmp_path / "shop.parquet")
    plain = Catalogue(path=str(tmp_path / "shop.parquet"))
    with pytest.raises(UsageError, match=r"nothing to measure.*style_group=COLUMN.*evaluation.pairs.path=FILE"):
        given(spark, plain)
    with pytest.raises(UsageError, match="style_group, which splits need"):
        given(spark, plain, split_column="title")
