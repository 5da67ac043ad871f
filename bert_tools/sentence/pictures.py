"""The map of clusters, by matplotlib (extra: plots)."""

import os

import numpy as np

from bert_tools.plots import fonts, save

_COLORED = 18  # Clusters with a colour of their own; further ones share grey.
_TEXTS = 30  # Points that have their texts beside them, at most.
_LONGEST = 48  # Characters of a text on the map.


def draw_map(folder, points, labels, texts, words):
    """Writes map.png: a point a text, coloured by cluster, each cluster's number in its midst; its
    size and typical words beside the map; where there are few points, their texts.

    Args:
      folder: str, made by plots.require_folder.
      points: float array [n, 2].
      labels: int array [n], -1 for texts in no cluster.
      texts: list of str, n of them.
      words: list of lists of str, the typical words of each cluster.
    """
    with fonts():
        save(map_figure(points, labels, texts, words), os.path.join(folder, "map.png"))


def map_figure(points, labels, texts, words):
    """The matplotlib Figure of `draw_map`."""
    import matplotlib
    from matplotlib.figure import Figure

    height = 4.5 if len(points) <= _TEXTS // 2 else 7.0
    figure = Figure(figsize=(11.0, height), layout="constrained")
    axes = figure.subplots()
    # Dark ones first, which neighbouring clusters can be told apart by; without the greys.
    colors = matplotlib.colormaps["tab20"].colors
    colors = [color for half in (0, 1) for color in colors[half::2] if np.ptp(color) > 0.05]
    size = float(np.clip(4000 / max(1, len(points)), 4, 60))
    rest = (labels < 0) | (labels >= _COLORED)
    if rest.any():
        name = "in none" if labels.max(initial=-1) < _COLORED else "in none or a smaller one"
        axes.scatter(*points[rest].T, s=size, color="0.8", label=f"{name} ({rest.sum()})")
    for label in range(min(_COLORED, labels.max(initial=-1) + 1)):
        own = labels == label
        typical = ", ".join(words[label][:3]) if label < len(words) else ""
        name = f"{label}: {typical} ({own.sum()})" if typical else f"{label} ({own.sum()})"
        axes.scatter(*points[own].T, s=size, color=colors[label], label=name)
        if own.any() and len(points) > _TEXTS:
            # The midst of most of its points, not of the few that lie elsewhere.
            axes.text(
                *np.median(points[own], axis=0),
                str(label),
                ha="center",
                va="center",
                weight="bold",
                bbox={"boxstyle": "round", "facecolor": (1, 1, 1, 0.8), "edgecolor": colors[label]},
            )
    if len(points) <= _TEXTS:
        _write_texts(axes, points, texts)
    axes.set_xticks([])
    axes.set_yticks([])
    figure.legend(loc="outside right upper", fontsize="small", frameon=False)
    return figure


def _write_texts(axes, points, texts):
    """The texts of the points left and right of the map, each half's on its side, a line each, in
    the order of their height; a line leads to the point.
    """
    low, high = points.min(0), points.max(0)
    span = np.where(high > low, high - low, 1.0)
    line = 0.2 / axes.figure.get_figheight() * span[1]  # A little more than 8 points.
    top = high[1]
    for right in (False, True):
        side = np.flatnonzero((points[:, 0] > (low[0] + high[0]) / 2) == right)
        height = -np.inf
        for place in side[np.argsort(points[side, 1], kind="stable")]:
            height = max(height + line, points[place, 1])
            text = texts[place]
            axes.annotate(
                text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "...",
                points[place],
                (high[0] + 0.08 * span[0] if right else low[0] - 0.08 * span[0], height),
                ha="left" if right else "right",
                va="center",
                fontsize=8,
                arrowprops={
                    "arrowstyle": "-",
                    "color": "0.6",
                    "linewidth": 0.5,
                    "relpos": (1 - right, 0.5),
                },
            )
        top = max(top, height)
    # Room for them: 48 characters are a good third of the figure.
    axes.set_xlim(low[0] - 1.3 * span[0], high[0] + 1.3 * span[0])
    axes.set_ylim(low[1] - 0.1 * span[1], top + 0.1 * span[1])
