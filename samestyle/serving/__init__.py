"""Read releases: search them by vector, photo or words, without Spark and without torch."""

from samestyle.serving.searcher import Part, Refreshed, Searcher, open_release
from samestyle.serving.shards import Hit

__all__ = ["Hit", "Part", "Refreshed", "Searcher", "open_release"]
