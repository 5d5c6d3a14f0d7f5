"""Pictures for notebooks: photo sheets and maps of vectors, as matplotlib figures."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

COLOURS = (
    *("#2f5fd0", "#d0682f", "#1c8f74", "#8a4fc4", "#b8922a", "#c23b6b", "#4aa3c7", "#7a9a2e", "#8c5a3c", "#5b6779"),
    *("#1b3a8a", "#f0a36b", "#74c9b3", "#c8a6ea", "#e5cf7c", "#ec93b5", "#a9d8ea", "#c3da85", "#cfa68e", "#b6bfcc"),
)
INK, SOFT = "#17202e", "#5b6779"
Pixels = np.ndarray | None  # (size, size, 3) uint8, RGB, or no photo


def plane(vectors: np.ndarray) -> np.ndarray:
    """The two directions in which (n, dim) vectors differ most: (n, 2) float32 principal components.

    Signs are fixed, so that the same vectors always give the same map.
    """
    centred = np.asarray(vectors, np.float32) - np.mean(vectors, axis=0, dtype=np.float32)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][np.arange(2), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    return centred @ axes.T


def category_map(axes: Axes, points: np.ndarray, categories: Sequence[str | None], title: str = "") -> None:
    """A dot an item, coloured by category. points: (n, 2)."""
    names = sorted({category or "none" for category in categories})
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    labels = np.array([category or "none" for category in categories])
    for name in names:
        chosen = points[labels == name]
        axes.scatter(chosen[:, 0], chosen[:, 1], s=16, color=colours[name], label=leaf(name), linewidths=0)
    clean(axes, title)


def photo_map(axes: Axes, points: np.ndarray, photos: Sequence[Pixels], zoom: float = 0.32, title: str = "") -> None:
    """Photos at their places, later ones on top. points: (n, 2)."""
    axes.scatter(points[:, 0], points[:, 1], s=1, alpha=0)  # sets the limits; the photos do not
    for point, pixels in zip(points, photos, strict=True):
        if pixels is not None:
            box = AnnotationBbox(OffsetImage(pixels, zoom=zoom), tuple(point), pad=0.1, frameon=True)
            box.patch.set(edgecolor="#d5dae3", linewidth=0.6)
            axes.add_artist(box)
    clean(axes, title)


def photo_sheet(
    rows: Sequence[Sequence[Pixels]],
    captions: Sequence[Sequence[str]],
    names: Sequence[str] = (),
    side: float = 1.25,
    queries: bool = True,
) -> Figure:
    """Photos in rows, the first of each framed as the query, if they are `queries`.

    captions: a text a photo; names: a text a row, or none; side: inches a photo.
    """
    columns = max(len(row) for row in rows)
    figure = Figure(figsize=(columns * side, len(rows) * side * 1.42), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, photos, texts in zip(grid, rows, captions, strict=True):
        for place, axes in enumerate(line):
            if place < len(photos):
                photo_cell(axes, photos[place], texts[place], framed=queries and place == 0)
            else:
                axes.set_axis_off()
    for axes, name in zip(grid[:, 0], names, strict=False):
        axes.set_ylabel(name, fontsize=9, color=INK)
    return figure


def neighbour_sheet(
    queries: Sequence[int] | np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    photos: Sequence[Pixels],
    titles: Sequence[str],
    names: Sequence[str] = (),
) -> Figure:
    """A row a query: its photo, then those of what was found, without itself, each with its score.

    queries: (q,) and labels: (q, k) place in `photos` and `titles`; scores: (q, k); names: a text a row, or none.
    """
    rows, captions = [], []
    for query, found, near in zip(queries, labels, scores, strict=True):
        others = [(label, score) for label, score in zip(found, near, strict=True) if label != query]
        rows.append([photos[query], *(photos[label] for label, _ in others)])
        captions.append([titles[query], *(f"{score:.2f}  {titles[label]}" for label, score in others)])
    width = min(map(len, rows))  # where equal vectors have pushed the query itself out of the list
    return photo_sheet([row[:width] for row in rows], [texts[:width] for texts in captions], names)


def photo_cell(axes: Axes, pixels: Pixels, caption: str, framed: bool = False) -> None:
    if pixels is None:
        axes.text(0.5, 0.5, "no photo", ha="center", va="center", color=SOFT, fontsize=8, transform=axes.transAxes)
        axes.set_box_aspect(1)
    else:
        axes.imshow(pixels)
    axes.set(xticks=[], yticks=[])
    # parse_math: a title may hold dollar signs.
    axes.set_xlabel(wrapped(caption), fontsize=7, color=INK, parse_math=False)
    for spine in axes.spines.values():
        spine.set(color=INK if framed else "#d5dae3", linewidth=2 if framed else 0.8)


def wrapped(text: str, width: int = 20, lines: int = 3) -> str:
    """The first `lines` lines of a text, at most `width` characters each."""
    found = [""]
    for word in text.split():
        if found[-1] and len(found[-1]) + len(word) >= width:
            found.append("")
        found[-1] = f"{found[-1]} {word[:width]}".strip()
    return "\n".join(found[:lines])


def leaf(category: str) -> str:
    return category.rsplit("/", 1)[-1]


def clean(axes: Axes, title: str) -> None:
    axes.set(xticks=[], yticks=[], title=title)
    axes.spines[:].set(color="#d5dae3")


def map_figure(panels: int = 1, side: float = 5.2) -> tuple[Figure, list[Axes]]:
    """A figure with `panels` square maps side by side, and room for one legend below."""
    figure = Figure(figsize=(panels * side, side * 1.12), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def legend_below(figure: Figure, axes: Axes, columns: int = 6) -> Figure:
    """One legend for all maps of a figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, markerscale=2, fontsize=9)
    return figure
