"""A repeatability study as one page of HTML that prints well; nothing is fetched from anywhere.

Enters: what `repeatability.py` found. Leaves: text. Every name goes through `escape`.
"""

from collections.abc import Sequence
from html import escape

from calibration import texts
from calibration.bounds import percent
from calibration.paper import page
from calibration.repeatability import AIAG, Agreement, PartStudy, Repeatability

_WIDTH, _ROW, _LEFT = 720, 18, 150


def html(
    study: Repeatability, agreements: Sequence[Agreement], title: str, facts: dict[str, str]
) -> str:
    """The whole page. facts: name → value lines under the title (recipe, bundle, date, by whom)."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items()
    )
    simulated = (
        '<p class="simulated">SIMULATED PICTURES: this study proves nothing about a camera.</p>'
        if study.is_simulated
        else ""
    )
    notes = "".join(f"<p>Note: {escape(note)}.</p>" for note in study.notes)
    band = study.limits[1] - study.limits[0]
    says = "wide enough" if study.is_wide_enough else "TOO NARROW"
    return page(
        title,
        f"""{simulated}
<table>{rows}</table>
<h2>Repeatability of the score</h2>
<p>σ = {study.sigma:.4g} (95 % bound {study.sigma_upper:.4g}), from
{len(study.near) or "all"} parts near a limit. Guard band 6 σ = {study.guard_band:.4g};
T2 − T1 = {band:.4g}: <b>{says}</b>.</p>{notes}
{_plot(study)}
{_table(study.parts)}
{_agreement(agreements)}""",
    )


def _plot(study: Repeatability) -> str:
    """Every margin of every part as a dot, with both limits."""
    values = [m for part in study.parts for m in part.margins] + list(study.limits)
    low, high = min(values), max(values)
    room = (high - low) * 0.05 or 1.0
    low, high = low - room, high + room

    def x(margin: float) -> float:
        return _LEFT + (margin - low) / (high - low) * (_WIDTH - _LEFT - 10)

    parts = sorted(study.parts, key=lambda part: part.mean)
    height = _ROW * (len(parts) + 2)
    shapes = [
        f'<line x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="12" y2="{height}" stroke="#888" '
        f'stroke-dasharray="4 3"/><text x="{x(limit):.1f}" y="10" font-size="11" '
        f'text-anchor="middle">{name}</text>'
        for name, limit in zip(("T1", "T2"), study.limits, strict=True)
    ]
    for row, part in enumerate(parts):
        y = _ROW * (row + 1.5)
        shapes.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" font-size="11" text-anchor="end">'
            f"{escape(part.part[:24])}</text>"
        )
        colour = "#b30" if part.flips else "#246"
        shapes += [
            f'<circle cx="{x(margin):.1f}" cy="{y:.1f}" r="3" fill="none" stroke="{colour}"/>'
            for margin in part.margins
        ]
    return f'<svg viewBox="0 0 {_WIDTH} {height}" width="100%" role="img">{"".join(shapes)}</svg>'


def _table(parts: Sequence[PartStudy]) -> str:
    rows = "".join(
        f'<tr class="{"flips" if part.flips else ""}"><td>{escape(part.part)}</td>'
        f'<td class="n">{len(part.margins)}</td><td class="n">{part.mean:.4g}</td>'
        f'<td class="n">{part.sigma:.4g}</td><td>{_words(part)}</td></tr>'
        for part in sorted(parts, key=lambda part: (not part.flips, -part.sigma))
    )
    return (
        '<table><tr><th>Part</th><th class="n">Presentations</th><th class="n">Mean</th>'
        f'<th class="n">σ</th><th>Verdicts</th></tr>{rows}</table>'
    )


def _words(part: PartStudy) -> str:
    counts = {word.name: part.words.count(word) for word in dict.fromkeys(part.words)}
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _agreement(agreements: Sequence[Agreement]) -> str:
    if not agreements:
        return "<h2>Attribute agreement</h2><p>No truth was given for the parts.</p>"
    rows = ""
    for one in agreements:
        good, fair = AIAG[one.name]
        seen = one.decisions.estimate
        rows += (
            f"<tr><td>{escape(one.name)}</td>"
            f'<td class="n">{one.decisions.cases} of {one.decisions.total}</td>'
            f'<td class="n">{"–" if seen is None else percent(seen)}</td>'
            f"<td>{one.sign} {percent(good)} (marginal {percent(fair)})</td>"
            f"<td><b>{one.rating}</b></td>"
            f"<td>{one.parts.cases} of {one.parts.total} parts: {one.proof}</td></tr>"
        )
    return (
        "<h2>Attribute agreement (AIAG MSA, 4th edition)</h2>"
        '<table><tr><th></th><th class="n">Decisions</th><th class="n">Share seen</th>'
        "<th>Acceptable</th><th>Rating of this share</th>"
        f"<th>What the parts prove, with 95 %</th></tr>{rows}</table>"
        f"<p>{escape(texts.AGREEMENT_NOTE)}</p>"
    )
