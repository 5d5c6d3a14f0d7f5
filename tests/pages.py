"""The commands and links of the README and docs, as their readers see them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
PAGES += ["conf/examples/README.md"]
PROGRAMS = (
    r"(?:\./spark-submit\.sh|(?:\.venv/bin/|data/packed/bin/)?(?:samestyle|python[0-9.]*|uv|pip|venv-pack)|make|curl)"
)
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:time )?{PROGRAMS} \S.*")
FENCE = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A line that a reader may type. block: the language of its fenced block, "indented", or "inline" for `code`."""

    page: str
    block: str
    text: str


def read_page(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [text for found, text in FENCE.findall(read_page(page)) if found == language]


def commands(page: str) -> list[Command]:
    """All of a page, fenced ones first; what a shell would not see as a comment is cut off."""
    text = read_page(page)
    found = [(language or "plain", line) for language, block in FENCE.findall(text) for line in shell_lines(block)]
    prose = FENCE.sub("", text)
    indented = "\n".join(line[4:] if line.startswith("    ") else "" for line in prose.splitlines())
    found += [("indented", line) for line in shell_lines(indented)]
    found += [("inline", line) for line in re.findall(r"`([^`\n]+)`", prose) if COMMAND.fullmatch(line)]
    return [Command(page, block, line) for block, line in found]


def shell_lines(text: str) -> list[str]:
    """Lines that are commands, continued ones joined, without their comments."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    lines = (re.sub(r"\s+#\s.*", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if COMMAND.fullmatch(line)]


def anchors(page: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", read_page(page)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> list[tuple[str, str]]:
    """Where a page's links and pictures lead to in the checkout: path from the root, and anchor."""
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", read_page(page)))
    inside = [target.partition("#") for target in targets if "://" not in target]
    folder = (ROOT / page).parent
    return [(str((folder / path).resolve().relative_to(ROOT)) if path else page, anchor) for path, _, anchor in inside]
