"""The tables' columns, once: DDL as text, so that nothing here needs Spark. docs/tables.md explains them to users."""

EMBEDDINGS = """
    encoder_id string, content_key string, title_hash string, image_key string, image_digest string,
    outcome string, reason string, detail string, transient boolean,
    image_vector array<float>, text_vector array<float>, fused_vector array<float>,
    run_id string, embedded_at timestamp, thumbnail binary
"""

NEIGHBOURS = """
    module string, item_id string, band string, rank int, neighbour_id string, score float, release_id string
"""

PAIRS = """
    trigger_id string, offer_id string, category string, clicks long, relevance float, label int,
    style_group long, split string
"""

RUNS = """
    run_id string, stage string, started_at timestamp, ended_at timestamp,
    read long, fresh long, reused long, stale long, degraded long, rejected long, deleted long,
    contents_embedded long, settings_digest string, code_version string, source_version string,
    encoder_id string, release_id string, outcome string
"""

EVALUATIONS = """
    run_id string, encoder_id string, release_id string, module string, view string, slice string,
    metric string, value double, queries long, low double, high double
"""


def items(attributes: str) -> str:
    """DDL of the items table; `attributes` is the DDL of the attributes struct, which follows the settings."""
    return f"""
    item_id string, wanted_key string, content_key string, served_at timestamp, state string, reason string,
    detail string, supplier_id string, category string, attributes {attributes}, title string, image_uri string,
    style_group string, first_seen_at timestamp, run_id string
"""


# What the catalogue reader returns, whatever the source looks like.
CATALOGUE_COLUMNS = {
    "item_id": "string",
    "title": "string",
    "image": "binary",
    "image_uri": "string",
    "image_version": "string",
    "supplier_id": "string",
    "category": "string",
    "updated_at": "timestamp",
    "style_group": "string",
}

CLICK_COLUMNS = {
    "user_id": "string",
    "session_id": "string",
    "item_id": "string",
    "query": "string",
    "clicked_at": "timestamp",
}

# What the embedding UDF returns for one content.
OUTCOME = """
    image_digest string, outcome string, reason string, detail string, transient boolean,
    image_vector array<float>, text_vector array<float>, fused_vector array<float>
"""

# What the embedding job hands to workers of a content, and what comes back.
CONTENT_KEYS = ("content_key", "title_hash", "image_key")
CONTENT = (*CONTENT_KEYS, "title", "image", "image_uri", "known_digest")
ATTEMPT = ", ".join([*(f"{name} string" for name in CONTENT_KEYS), OUTCOME.strip(), "thumbnail binary"])

# What a worker tells of a display file that it has written.
WRITTEN = "file int, record string"

# Objects of the store that are read back, and what is wrong with one.
OBJECT = "key string, sha256 string, bytes long"
DAMAGE = "damage string"
