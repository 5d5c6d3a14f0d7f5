"""The commands of `samestyle deny`: takedowns."""

import argparse

from samestyle.console import Call, counted, print_table
from samestyle.release.denylist import allow, deny, purge, read_denylist


def list_all(call: Call) -> None:
    items = read_denylist(call.store).items
    if not items:
        print(f"nothing is denied in {call.store.uri}")
        return
    print_table(("item", "since", "reason"), [(item, one.at, one.reason or "") for item, one in sorted(items.items())])


def add(call: Call) -> None:
    came = deny(call.store, call.arguments.items, call.arguments.reason)
    print(f"{counted(len(came), 'item')} denied, {len(call.arguments.items) - len(came)} were already")
    print("readers hide them from their next refresh on; the next night leaves them out of its release")


def remove(call: Call) -> None:
    went = allow(call.store, call.arguments.items)
    print(f"{counted(len(went), 'item')} allowed again, {len(call.arguments.items) - len(went)} were not denied")


def purge_all(call: Call) -> None:
    print(f"{counted(purge(call.store), 'denied item')} to purge: the next night builds every shard anew that holds a")
    print("vector without an item; older releases keep theirs until `samestyle releases gc --delete` removes them")


def add_arguments(command: argparse.ArgumentParser, name: str) -> None:
    if name in ("add", "remove"):
        command.add_argument(
            "items", nargs="+", metavar="ITEM", help="item ids; after `--` those that look like an option or a setting"
        )
    if name == "add":
        command.add_argument("--reason", help="kept in the list")
