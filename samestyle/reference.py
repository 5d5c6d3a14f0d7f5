"""What is written out for people: the settings as conf/base.yaml and docs/settings.md, and the manifest's JSON schema.

python -m samestyle.reference        writes all three; tests compare them with the code that they are made from
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from samestyle.release.schema import schema_path, schema_text
from samestyle.settings import Settings, branch_of, describe

ROOT = Path(__file__).resolve().parents[1]
BASE_HEAD = """\
# Every setting with its default, a sentence each. Do not edit for your shop: write what differs into dev.yaml or
# prod.yaml, into a file of your own (--settings FILE), or on the command line (a.b=value).
# Written by `python -m samestyle.reference` from samestyle/settings.py.
"""
PAGE_HEAD = """\
# Settings

Every setting has its default in `conf/base.yaml`. Later layers win: `conf/base.yaml`, `conf/<env>.yaml`, a file given
by `--settings FILE`, and `a.b=value` words on the command line:

    ./spark-submit.sh nightly --env prod catalogue.table=shop.items paths.root=/mnt/shared/samestyle

`--dry-run` prints the resolved settings and what the run would do. An unknown name ends with exit code 2 and names its
neighbours. This page is written by `python -m samestyle.reference`.
"""


def base_yaml() -> str:
    return BASE_HEAD + "\n".join(section_lines(Settings(), 0)) + "\n"


def section_lines(section: BaseModel, depth: int) -> Iterator[str]:
    pad = "  " * depth
    for name, field in type(section).model_fields.items():
        if field.exclude or (depth == 0 and name == "env"):
            continue
        value = getattr(section, name)
        if depth == 0:
            yield ""
        yield from comment(field.description or "", pad)
        if isinstance(value, BaseModel):
            yield f"{pad}{name}:"
            yield from section_lines(value, depth + 1)
        elif branch_of(field.annotation):
            yield f"{pad}{name}:"
            yield from module_lines(value, pad + "  ")
        else:
            yield f"{pad}{name}: {plain(value)}"


def module_lines(modules: dict[str, BaseModel], pad: str) -> Iterator[str]:
    """The first module with a sentence each; of the others only what is not a module's default."""
    for number, (name, module) in enumerate(modules.items()):
        yield f"{pad}{name}:"
        if number == 0:
            yield from section_lines(module, len(pad) // 2 + 1)
            continue
        for key, value in module.model_dump(mode="json", exclude_defaults=True).items():
            yield f"{pad}  {key}: {plain(value)}"


def comment(text: str, pad: str) -> list[str]:
    return textwrap.wrap(text, width=118 - len(pad), initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")


def plain(value: Any) -> str:
    """One YAML value on one line."""
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("...").strip()


def settings_page() -> str:
    sections: dict[str, list[str]] = {}
    for key, field in describe(Settings):
        row = f"| `{key}` | {default_of(field)} | {values_of(field.annotation)} | {field.description} |"
        sections.setdefault(key.rpartition(".")[0], []).append(row)
    sections.pop("")  # env, which is no setting of a file
    head = "| setting | default | values | meaning |\n| --- | --- | --- | --- |\n"
    return PAGE_HEAD + "".join(f"\n## {name}\n\n{head}" + "\n".join(rows) + "\n" for name, rows in sections.items())


def default_of(field: Any) -> str:
    return "not set" if field.default is None else f"`{plain(field.default)}`"


def values_of(annotation: Any) -> str:
    """The kind of value, in words that a YAML writer knows."""
    options = get_args(annotation)
    if options and all(isinstance(option, str) for option in options):
        return ", ".join(options)
    names = {str: "text", int: "whole number", float: "number", bool: "true / false"}
    if annotation in names:
        return names[annotation]
    return "list" if getattr(annotation, "__origin__", None) is tuple else values_of(options[0]) if options else "text"


def main() -> None:
    (ROOT / "conf" / "base.yaml").write_text(base_yaml(), encoding="utf-8")
    (ROOT / "docs" / "settings.md").write_text(settings_page(), encoding="utf-8")
    schema_path().write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
