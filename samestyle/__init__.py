"""Same-style product retrieval: embeddings, HNSW shards and releases from a product catalogue."""

__version__ = "0.1.0"
