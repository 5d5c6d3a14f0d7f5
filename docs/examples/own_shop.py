"""A shop that calls its columns what it likes, to try docs/catalogue.md on: python docs/examples/own_shop.py FOLDER

Writes FOLDER/products.json, one object a line, and the photos that it names. All of it is generated.
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

from samestyle.demo.catalogue import write_demo_catalogue

OFFERS = 120
THEIRS = {
    "item_id": "sku",
    "title": "name",
    "image_uri": "photo",
    "supplier_id": "seller",
    "category": "shelf",
    "price": "price",
    "in_stock": "available",
}


def main(folder: Path) -> None:
    demo = write_demo_catalogue(folder, OFFERS, seed=11)
    offers = pq.read_table(demo.path, columns=list(THEIRS)).rename_columns(THEIRS).to_pylist()
    products = folder / "products.json"
    products.write_text("".join(json.dumps(offer) + "\n" for offer in offers))
    print(f"{len(offers)} products in {products}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
