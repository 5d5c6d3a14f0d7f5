"""The outcome of a run in a few numbers: summary.json, the closing table, the line to grep for."""

from typing import Any

from samestyle.runs import RunFolder


def summarise(run: RunFolder) -> dict[str, Any]:
    """What the stages that ran have found out; stages that did not run leave their numbers out."""
    embed, evaluated = run.read("embed") or {}, run.read("evaluate_index") or {}
    summary: dict[str, Any] = {"timings_s": run.read("timings") or {}}
    if embed:
        summary |= {name: embed[name] for name in ("source", "source_version", "counts", "contents_embedded")}
    if evaluated:
        summary["recall"] = {f"{i['module']}/{i['view']}": i["recall"] for i in evaluated["indexes"]}
        summary["same_style_r1"] = {view: share["value"] for view, share in evaluated["style_recall"].items()}
    built = run.read("build_index") or {}
    summary["notes"] = built.get("notes", [])
    summary["items"] = items_by_module(built.get("indexes", []))
    gate = run.read("gate") or {}
    summary["gate_refused"] = [r["sentence"] for r in gate.get("results", []) if not r["passed"]]
    return summary | (run.read("publish") or {})


def items_by_module(indexes: list[dict[str, Any]]) -> dict[str, int]:
    """Items of each module: those of its fullest view."""
    counts: dict[str, int] = {}
    for index in indexes:
        items = sum(shard["items"] for shard in index["shards"])
        counts[index["module"]] = max(items, counts.get(index["module"], 0))
    return counts


def published_line(summary: dict[str, Any]) -> str:
    """One line to grep for: `published release ID: N items, N embedded, ...`."""
    counts = summary["counts"]
    recall = min(entry["value"] for entry in summary["recall"].values())
    k = next(iter(summary["recall"].values()))["k"]
    parts = [
        f"{max(summary['items'].values())} items",
        f"{summary['contents_embedded']} embedded",
        f"{counts['reused']} reused",
        f"{counts['rejected']} rejected",
        f"recall@{k} {recall:.3f}",
    ]
    styles = summary["same_style_r1"]
    if styles:
        parts.append(
            "same-style R@1 " + " ".join(f"{view} {value:.3f}" for view, value in sorted(styles.items(), reverse=True))
        )
    return f"published release {summary['release_id']}: " + ", ".join(parts)


def closing_table(summary: dict[str, Any]) -> str:
    """What a person looks at when the run has ended."""
    rows = [("catalogue rows", f"{summary['counts']['read']:,}")] if "counts" in summary else []
    rows += [(f"  {state}", f"{count:,}") for state, count in summary.get("counts", {}).items() if state != "read"]
    if "contents_embedded" in summary:
        rows.append(("contents embedded", f"{summary['contents_embedded']:,}"))
    rows += [(f"items of {module}", f"{count:,}") for module, count in summary["items"].items()]
    rows += [
        (f"recall@{entry['k']} {index}", f"{entry['value']:.3f}  ({entry['low']:.3f} to {entry['high']:.3f})")
        for index, entry in summary.get("recall", {}).items()
    ]
    rows += [(f"same-style R@1 {view}", f"{value:.3f}") for view, value in summary.get("same_style_r1", {}).items()]
    rows += [(f"seconds {stage}", f"{seconds:,.1f}") for stage, seconds in summary["timings_s"].items()]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
