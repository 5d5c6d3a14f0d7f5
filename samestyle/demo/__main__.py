"""`python -m samestyle.demo --root DIR`: write the demo catalogue, and with --sheet a picture of 100 offers."""

import argparse
import sys
from pathlib import Path

from samestyle.errors import SamestyleError

from .catalogue import write_demo_catalogue
from .sheet import write_sheet


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m samestyle.demo", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder for photos and tables")
    parser.add_argument("--offers", type=int, default=3000, help="offers on day 1")
    parser.add_argument("--day", type=int, default=1, help="day of the catalogue, from 1")
    parser.add_argument("--seed", type=int, default=7, help="another seed, another shop")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet to this PNG file")
    options = parser.parse_args()
    try:
        demo = write_demo_catalogue(
            options.root, options.offers, options.day, options.seed, progress=lambda text: print(text, file=sys.stderr)
        )
    except SamestyleError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    if options.sheet:
        write_sheet(demo, options.sheet)
    print(demo.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
