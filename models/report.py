"""`report.html` of a bundle: what the training did and where it errs, on one page.

Losses over the epochs, histograms and ROC of every score on images that nothing has seen, and the
pictures that were judged worst, with their heat maps. Drawn here: no plotting library, no script,
nothing from a network.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_curve

from models.dataset import Dataset, Sample
from models.evaluate import Scorer
from models.learn import Epoch

WORST = 6
"""Pictures of each kind of error."""
_PICTURE_PX = 300
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 260, 52, 36
_GOOD, _BAD, _LINES = "#2b7bba", "#c8401f", ("#2b7bba", "#c8401f", "#3a8a4d", "#8a5fa8")

Floats = npt.NDArray[np.float32]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scored:
    """Images that were scored, and what came out."""

    samples: tuple[Sample, ...]
    margins: Mapping[str, Floats]
    """Score → (N,) raw margins."""
    decides: str
    t1: float
    t2: float
    """Proposed limits of the deciding score."""

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) 0 good, 1 bad."""
        return np.array([sample.label for sample in self.samples], np.int64)


def write_report(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    history: Sequence[Epoch],
    scored: Scored,
    data: Dataset,
    scorer: Scorer,
) -> None:
    """One self-contained page. facts: shown as a table, in order."""
    parts = [f"<h1>{html.escape(title)}</h1>", _table(facts)]
    if history:
        parts += ["<h2>Training</h2>", _losses(history)]
    labels = scored.labels
    unseen = "Images that nothing of the bundle has seen" if data.held_out else (
        "No image was held out: these are the ones that forest and limits were made with"
    )  # fmt: skip
    counts = f"{int((labels == 0).sum())} good, {int(labels.sum())} bad"
    parts.append(f"<h2>Scores</h2><p>{unseen}: {counts}.</p>")
    for name, margins in scored.margins.items():
        limits = (scored.t1, scored.t2) if name == scored.decides else ()
        said = " (decides)" if limits else ""
        parts.append(f"<h3>{html.escape(name)}{said}</h3>")
        parts.append(histogram(margins[labels == 0], margins[labels == 1], limits))
    if 0 < labels.sum() < len(labels):
        parts.append("<h2>ROC</h2>")
        curves = {
            name: list(zip(*roc_curve(labels, margins)[:2], strict=True))
            for name, margins in scored.margins.items()
        }
        parts.append(chart(curves, "share of good images called bad", "share of bad ones found"))
    parts += _worst(scored, data, scorer)
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n",
        encoding="utf-8",
    )


_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td{padding:.1rem 1rem .1rem 0;vertical-align:top}"
    "figure{display:inline-block;margin:.4rem}figcaption{font-size:12px;max-width:300px}"
    "svg{background:#fafafa;margin:.3rem}text{font:11px sans-serif;fill:#444}"
)


def chart(lines: Mapping[str, Points], across: str, up: str) -> str:
    """Lines as an SVG with axes from their own ranges; points that are not finite are left out."""
    kept = {
        name: [point for point in points if all(map(math.isfinite, point))]
        for name, points in lines.items()
    }
    every = [point for points in kept.values() for point in points]
    if not every:
        return ""
    (left, right), (low, high) = (
        (min(p[axis] for p in every), max(p[axis] for p in every)) for axis in (0, 1)
    )
    low = min(low, 0.0)
    drawn: list[str] = []
    for number, (name, points) in enumerate(kept.items()):
        colour = _LINES[number % len(_LINES)]
        at = " ".join(f"{_across(x, left, right):.1f},{_up(y, low, high):.1f}" for x, y in points)
        drawn.append(f'<polyline points="{at}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        drawn.append(
            f'<text x="{_WIDTH - 150}" y="{18 + 14 * number}" style="fill:{colour}">'
            f"{html.escape(name)}</text>"
        )
    return _framed(drawn, (left, right), (low, high), across, up)


def histogram(good: Floats, bad: Floats, limits: Sequence[float] = ()) -> str:
    """Two histograms on one axis, each as shares of its own class, and the limits as lines."""
    values = np.concatenate([good, bad])
    if not values.size:
        return ""
    left, right = float(min([values.min(), *limits])), float(max([values.max(), *limits]))
    right = right if right > left else left + 1
    edges = np.linspace(left, right, 41)
    bars = {
        colour: np.histogram(side, edges)[0] / max(1, len(side))
        for colour, side in ((_GOOD, good), (_BAD, bad))
    }
    top = float(max(heights.max() for heights in bars.values()))
    drawn: list[str] = []
    for colour, heights in bars.items():
        for start, stop, height in zip(edges[:-1], edges[1:], heights, strict=True):
            x, y = _across(start, left, right), _up(height, 0, top)
            drawn.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{_across(stop, left, right) - x:.1f}" '
                f'height="{_up(0, 0, top) - y:.1f}" fill="{colour}" fill-opacity=".55"/>'
            )
    for name, limit in zip(("T1", "T2"), limits, strict=False):
        x = _across(limit, left, right)
        drawn.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{_HEIGHT - _BOTTOM}" stroke="#222"/>'
            f'<text x="{x + 3:.1f}" y="16">{name}</text>'
        )
    return _framed(drawn, (left, right), (0, top), "margin: good blue, bad red", "share")


def overlay(
    frame: npt.NDArray[np.uint8], amap: Floats, low: float, high: float
) -> npt.NDArray[np.uint8]:
    """Frame (H, W, C) under its heat map (h, w), low to high, as (H', W', 3) RGB, reduced."""
    scale = min(1.0, _PICTURE_PX / max(frame.shape[:2]))
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    if small.ndim == 2:
        small = cv2.cvtColor(small, cv2.COLOR_GRAY2RGB)
    heat = np.clip((amap - low) / max(high - low, 1e-6), 0, 1)
    heat = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)[:, :, None]
    red = np.array([255, 32, 0], np.float32)
    return np.asarray(small * (1 - 0.6 * heat) + red * 0.6 * heat, np.float32).astype(np.uint8)


def _losses(history: Sequence[Epoch]) -> str:
    numbered = list(enumerate(history, 1))
    return chart(
        {
            "map": [(number, epoch["segmentation"]) for number, epoch in numbered],
            "classification": [(number, epoch["classification"]) for number, epoch in numbered],
        },
        "epoch",
        "loss",
    ) + chart(
        {"gap": [(number, epoch["gap"]) for number, epoch in numbered]},
        "epoch",
        "defects above normal pixels, logits",
    )


def _worst(scored: Scored, data: Dataset, scorer: Scorer) -> list[str]:
    """Good images with the highest margins, bad ones with the lowest."""
    labels, margins = scored.labels, scored.margins[scored.decides]
    largest = scored.margins["map_max"]
    low = float(np.median(largest[labels == 0])) if (labels == 0).any() else float(largest.min())
    high = max(float(np.quantile(largest, 0.98)), low + 1e-3)
    order = np.argsort(margins, kind="stable")
    parts: list[str] = []
    for heading, chosen in (
        ("Good, and most like a defect", order[::-1][labels[order[::-1]] == 0][:WORST]),
        ("Bad, and most like a good part", order[labels[order] == 1][:WORST]),
    ):
        if len(chosen):
            parts.append(f"<h2>{heading}</h2>")
        for index in chosen:
            sample = scored.samples[index]
            frame = data.pixels([sample])[0]
            amap, _ = scorer.answer(frame)
            picture = overlay(frame, amap[0], low, high)
            said = f"{sample.kind}/{sample.path.name}: margin {margins[index]:.3f}"
            parts.append(
                f'<figure><img src="data:image/jpeg;base64,{_jpeg(picture)}" alt="">'
                f"<figcaption>{html.escape(said)}, {_word(float(margins[index]), scored)}"
                "</figcaption></figure>"
            )
    return parts


def _word(margin: float, scored: Scored) -> str:
    if margin < scored.t1:
        return "OK"
    return "NG" if margin >= scored.t2 else "UNCERTAIN"


def _jpeg(picture: npt.NDArray[np.uint8]) -> str:
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return base64.b64encode(coded.tobytes()).decode()


def _table(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in facts.items()
        if value
    )
    return f"<table>{rows}</table>"


def _across(x: float, left: float, right: float) -> float:
    return _LEFT + (x - left) / max(right - left, 1e-9) * (_WIDTH - _LEFT - 10)


def _up(y: float, low: float, high: float) -> float:
    return _HEIGHT - _BOTTOM - (y - low) / max(high - low, 1e-9) * (_HEIGHT - _BOTTOM - 10)


def _framed(
    drawn: Sequence[str],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    across: str,
    up: str,
) -> str:
    floor, middle = _HEIGHT - _BOTTOM, (_WIDTH + _LEFT) / 2
    axes = (
        f'<path d="M{_LEFT} 8V{floor}H{_WIDTH - 8}" fill="none" stroke="#888"/>'
        f'<text x="{_LEFT}" y="{floor + 14}">{x_range[0]:.3g}</text>'
        f'<text x="{_WIDTH - 10}" y="{floor + 14}" text-anchor="end">{x_range[1]:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">{y_range[0]:.3g}</text>'
        f'<text x="{_LEFT - 4}" y="16" text-anchor="end">{y_range[1]:.3g}</text>'
        f'<text x="{middle}" y="{floor + 28}" text-anchor="middle">{html.escape(across)}</text>'
        f'<text transform="translate(12 {floor / 2}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(up)}</text>"
    )
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f"<svg {size}>{axes}{''.join(drawn)}</svg>"
