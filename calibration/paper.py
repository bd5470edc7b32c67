"""The paper of every report: one page of HTML that prints well and fetches nothing."""

from html import escape

STYLE = """
body { font: 13px/1.45 "DejaVu Sans", Arial, sans-serif; color: #111; margin: 24px auto;
       max-width: 900px; background: #fff; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 15px; margin: 22px 0 6px; }
table { border-collapse: collapse; width: 100%; page-break-inside: auto; }
th, td { border-bottom: 1px solid #bbb; padding: 3px 8px; text-align: left; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr { page-break-inside: avoid; } .flips { font-weight: bold; }
.simulated { border: 3px solid #b30; color: #b30; font-weight: bold; padding: 8px 12px; }
.sign { display: flex; gap: 40px; margin-top: 44px; } .sign div { flex: 1; border-top: 1px solid; }
@page { size: A4; margin: 14mm; }
"""


def page(title: str, body: str) -> str:
    """The whole page. body: HTML, every name in it escaped; title: plain text."""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{body}
<div class="sign"><div>Date</div><div>Engineer</div><div>Quality</div></div>
</body></html>
"""
