"""The evidence of `inspectd chaos` as one page that prints: no script, nothing loaded."""

import html
from typing import Any

_STYLE = """
body { font: 10pt/1.4 sans-serif; margin: 2em; color: #111; background: #fff }
h1 { font-size: 16pt } caption, .small { color: #555; font-size: 9pt; text-align: left }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #bbb; padding: .35em .5em; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #111 } td.number { text-align: right; white-space: nowrap }
.passed { color: #0a6b2b } .late { color: #8a5a00 } .FAILED { color: #b00020; font-weight: bold }
tr { break-inside: avoid } thead { display: table-header-group }
.sign { margin-top: 3em; display: flex; gap: 4em } .sign div { border-top: 1px solid #111; flex: 1 }
@page { size: A4 landscape; margin: 15mm } @media print { body { margin: 0 } }
"""
_HEADINGS = ("failure", "detected after", "limit", "what the PLC read", "accepted again after",
             "limit", "parts rejected", "verdict")  # fmt: skip


def page(report: dict[str, Any]) -> str:
    """report: as of `--json`."""
    machine = report["machine"]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    rows = "\n".join(_row(row) for row in report["rows"])
    missing = "".join(
        f"<li><b>{html.escape(name)}</b>: {html.escape(why)}</li>"
        for name, why in report["not_yet"].items()
    )
    headings = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    grade = "passed" if report["passed"] else "FAILED"
    return f"""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>inspectd: failures and what came of them</title>
<style>{_STYLE}</style>
<h1>Failures and what came of them: <span class="{grade}">{grade}</span></h1>
<p>Every failure was brought about on a line of real processes with simulated devices, under load,
while a simulated PLC applied the acceptance rule. {report["plays"]} plays, {report["parts"]} parts.
<b>Accepted without having been scored: {report["ok_for_unscored"]}. Without a verdict or a row:
{report["without_verdict"]}.</b></p>
<p class="small">inspectd {machine["inspectd"]}, {html.escape(machine["cpu"])}, {machine["cores"]}
cores, {machine["memory_gb"]} GB, {html.escape(machine["system"])}, Python {machine["python"]},
{html.escape(libraries)}; load {machine["load_before"]} before; {machine["date_utc"]} (UTC).</p>
<table><caption>Times are the PLC's own, with a poll of 5 ms. Parts are rejected, never passed,
while a failure lasts.</caption><thead><tr>{headings}</tr></thead><tbody>
{rows}
</tbody></table>
{"<h2>Not brought about by this tool</h2><ul>" + missing + "</ul>" if missing else ""}
<div class="sign"><div>Date, name</div><div>Signature</div></div>
</html>
"""


def _row(row: dict[str, Any]) -> str:
    said = html.escape(": ".join(filter(None, (row["row"], row["note"]))))
    note = f'<div class="small">{said}</div>'
    why = f'<div class="small">{html.escape(row["why"])}</div>' if row["why"] else ""
    cells = (
        f"<td>{html.escape(row['failure'])}{note}</td>",
        _number(row["detected_ms"], "ms"),
        _number(row["within_ms"], "ms"),
        f"<td>{html.escape(row['output'])}</td>",
        _number(row["recovered_s"], "s"),
        _number(row["recovers_s"], "s"),
        f'<td class="number">{row["parts_lost"]} of {row["parts"]}</td>',
        f'<td class="{html.escape(row["verdict"])}">{html.escape(row["verdict"])}{why}</td>',
    )
    return f"<tr>{''.join(cells)}</tr>"


def _number(value: float | None, unit: str) -> str:
    return f'<td class="number">{"–" if value is None else f"{value:g} {unit}"}</td>'
