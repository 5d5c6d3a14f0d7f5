"""The manifest's JSON schema, made from the dataclasses that read it, for readers in other languages.

It lies beside this file as manifest-<format_version>.schema.json; `python -m samestyle.reference` writes it, and a test
compares it with the dataclasses. Fields that are added within a version are optional, and unknown ones are passed over.
"""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from samestyle.index.nodes import SPACE
from samestyle.release.manifest import (
    FORMAT_VERSION,
    MAX_DIM,
    MAX_NODES,
    NAME,
    VIEWS,
    EncoderEntry,
    Index,
    Manifest,
    NeighbourProbe,
    Recall,
    Shard,
    Thresholds,
)
from samestyle.release.store import MAX_OBJECT_BYTES, SHA256, SUFFIX, ObjectRef

Schema = dict[str, Any]
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean"}
IDENTIFIER = {"pattern": f"^{NAME.pattern}$"}
SHARE = {"minimum": 0, "maximum": 1}
COSINE = {"minimum": -1, "maximum": 1}
PARAMETER = {"minimum": 1, "maximum": 2**20}
# What the dataclasses check when they are made, as far as it is about one field.
LIMITS: dict[type, dict[str, Schema]] = {
    ObjectRef: {
        "key": {"pattern": f"^objects/{SHA256.pattern}{SUFFIX.pattern}$"},
        "sha256": {"pattern": f"^{SHA256.pattern}$"},
        "bytes": {"minimum": 0, "maximum": MAX_OBJECT_BYTES},
    },
    Recall: {"k": {"minimum": 1}, "queries": {"minimum": 1}, "value": SHARE, "low": SHARE, "high": SHARE},
    Thresholds: {"same_style": COSINE, "similar": COSINE, "duplicate": COSINE},
    Shard: {
        "shard": {"minimum": 0},
        "nodes": {"minimum": 1, "maximum": MAX_NODES},
        "items": {"minimum": 0, "maximum": MAX_NODES},
        "dead_share": SHARE,
        "orphans": {"minimum": 0},
    },
    Index: {
        "module": IDENTIFIER,
        "view": {"enum": list(VIEWS)},
        "metric": {"const": "cosine"},
        "space": {"const": SPACE},
        "dim": {"minimum": 1, "maximum": MAX_DIM},
        "m": PARAMETER,
        "ef_construction": PARAMETER,
        "ef_search": PARAMETER,
        "shards": {"minItems": 1},
    },
    EncoderEntry: {"encoder_id": IDENTIFIER, "dim": {"minimum": 1, "maximum": MAX_DIM}},
    NeighbourProbe: {"overlap": SHARE},
    Manifest: {
        "release_id": IDENTIFIER,
        "run_id": IDENTIFIER,
        "parent": IDENTIFIER,  # where it is text
        "indexes": {"minItems": 1},
        "format_version": {"const": FORMAT_VERSION},
    },
}


def schema_path(version: int = FORMAT_VERSION) -> Path:
    """Where the schema of a format's version lies."""
    return Path(__file__).with_name(f"manifest-{version}.schema.json")


def schema_text() -> str:
    return json.dumps(manifest_schema(), indent=1, ensure_ascii=False) + "\n"


def manifest_schema() -> Schema:
    """The schema of today's version, by JSON Schema's draft 2020-12."""
    definitions: dict[str, Schema] = {}
    whole = of_dataclass(Manifest, definitions)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"manifest.json of a samestyle release, format_version {FORMAT_VERSION}",
    }
    # A reader takes a manifest without it for none, whatever the dataclass has as a default.
    whole["required"].append("format_version")
    return {**head, **whole, "$defs": dict(sorted(definitions.items()))}


def of_dataclass(kind: type, definitions: dict[str, Schema]) -> Schema:
    hints, limits = get_type_hints(kind), LIMITS.get(kind, {})
    fields = dataclasses.fields(kind)
    return {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "properties": {field.name: of(hints[field.name], definitions) | limits.get(field.name, {}) for field in fields},
        "required": [field.name for field in fields if field.default is dataclasses.MISSING],
    }


def of(kind: Any, definitions: dict[str, Schema]) -> Schema:
    """The schema of a type hint; dataclasses become definitions."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if kind.__name__ not in definitions:
            definitions[kind.__name__] = {}  # it may name itself
            definitions[kind.__name__] = of_dataclass(kind, definitions)
        return {"$ref": f"#/$defs/{kind.__name__}"}
    if origin is types.UnionType:
        return {"anyOf": [of(argument, definitions) for argument in arguments]}
    if origin is tuple:
        return {"type": "array", "items": of(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": of(arguments[1], definitions)}
    if kind is types.NoneType:
        return {"type": "null"}
    return {} if kind is Any else {"type": SCALARS[kind]}
