"""`inspectd plc-conformance HOST`: the contract against a box, and a report for the file.

The box must be alone: its own PLC off, parts without harm. What the kit triggers are real parts of
the box. Exit code 0 when every rule holds, 1 when one is broken or nobody answers.
"""

import asyncio
import html
import json
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.atomic import write_atomically
from appliance.errors import ConfigError
from tools.plc_conformance_box import Box, NoBox, NotApplicable, Terms, Violation
from tools.plc_conformance_rules import RULES

PASSED, BROKEN, SKIPPED = "holds", "BROKEN", "not applicable"
_STYLE = """
body { font: 15px/1.4 sans-serif; max-width: 60em; margin: 2em auto; color: #111; }
table { border-collapse: collapse; width: 100%; }
td, th { border: 1px solid #999; padding: .3em .5em; text-align: left; vertical-align: top; }
.BROKEN { background: #fbb; font-weight: bold; }
.sign td { height: 3em; width: 33%; }
@media print { body { margin: 0; } }
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule on this box."""

    rule: str
    text: str
    outcome: str
    detail: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rules on this box."""

    host: str
    port: int
    mode: str
    at: str
    findings: tuple[Finding, ...]

    @property
    def is_conformant(self) -> bool:
        """No rule is broken, and one at least was checked."""
        outcomes = [finding.outcome for finding in self.findings]
        return BROKEN not in outcomes and PASSED in outcomes

    def as_object(self) -> dict[str, Any]:
        """For `--json`."""
        return {"is_conformant": self.is_conformant, **asdict(self)}

    def as_text(self) -> str:
        """For a terminal."""
        rows = [f"{f.rule:4} {f.outcome:15} {f.text}" for f in self.findings]
        details = [f"{f.rule:4} {f.detail}" for f in self.findings if f.detail]
        return "\n".join([self._title, "", *rows, "", *details, "", self._verdict, ""])

    def as_html(self) -> str:
        """One page that prints well, with a place to sign."""
        rows = "".join(
            f'<tr class="{f.outcome}"><td>{f.rule}</td><td>{html.escape(f.text)}</td>'
            f"<td>{f.outcome}</td><td>{html.escape(f.detail)}</td></tr>"
            for f in self.findings
        )
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{self._title}</title>'
            f"<style>{_STYLE}</style><h1>PLC contract of inspectd</h1><p>{self._title}</p>"
            "<table><tr><th>rule</th><th>what it says</th><th>outcome</th><th>measured</th></tr>"
            f"{rows}</table><p><b>{self._verdict}</b></p>"
            "<p>Times were measured by the checking machine and contain the network.</p>"
            '<table class="sign"><tr><td>checked by</td><td>date</td><td>signature</td></tr>'
            "</table></html>\n"
        )

    @property
    def _title(self) -> str:
        return f"{html.escape(self.host)}:{self.port}, {self.mode} mode, {self.at}"

    @property
    def _verdict(self) -> str:
        count = sum(f.outcome == BROKEN for f in self.findings)
        if count:
            return f"{count} rules are broken: this box does not keep the contract."
        held = sum(f.outcome == PASSED for f in self.findings)
        return f"{held} rules hold, none is broken."


async def check(terms: Terms, only: tuple[str, ...] = ()) -> Report:
    """Every rule, or those named, one after the other. Raises NoBox where nobody answers first."""
    findings: list[Finding] = []
    box = await Box(terms).connect()
    try:
        for name in only or tuple(RULES):
            findings.append(await _check_one(box, name))
    finally:
        box.close()
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Report(
        host=terms.host, port=terms.port, mode=terms.mode, at=at, findings=tuple(findings)
    )


async def _check_one(box: Box, name: str) -> Finding:
    begun = time.monotonic()
    try:
        outcome, detail = PASSED, await RULES[name](box)
    except Violation as err:
        outcome, detail = BROKEN, str(err)
    except NotApplicable as err:
        outcome, detail = SKIPPED, str(err)
    except NoBox as err:
        outcome, detail = BROKEN, str(err)
        box.close()
    if outcome == BROKEN:
        await _recover(box)
    seconds = round(time.monotonic() - begun, 3)
    text = " ".join((RULES[name].__doc__ or "").split())
    return Finding(rule=name, text=text, outcome=outcome, detail=detail, seconds=seconds)


async def _recover(box: Box) -> None:
    """After a broken rule: a fresh connection with nothing pending, as far as the box lets us."""
    try:
        box.close()
        await box.connect()
        await box.make_ready(limit_ms=2500)
    except (Violation, NoBox):
        return


def main(
    host: Annotated[str, typer.Argument(help="Address of the appliance.")],
    port: Annotated[int, typer.Option(help="Its Modbus port.")] = 502,
    mode: Annotated[str, typer.Option(help="level or ring, as [plc] results.")] = "level",
    deadline_ms: Annotated[int, typer.Option(help="As configured; 0 = do not compare.")] = 0,
    acknowledge_ms: Annotated[int, typer.Option(help="As acknowledge_timeout_ms.")] = 2000,
    network_ms: Annotated[float, typer.Option(help="Added to every limit.")] = 25.0,
    low_word_first: Annotated[
        bool, typer.Option("--low-word-first", help='As [plc] word_order = "low_first".')
    ] = False,
    only: Annotated[str, typer.Option(help="Rules by name, separated by commas.")] = "",
    html_file: Annotated[Path | None, typer.Option("--html", help="Report to sign.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check a box against the PLC contract, rule by rule; it triggers real parts.

    Needs a box whose trigger is "plc" and that no other PLC drives meanwhile.
    """
    names = tuple(name for name in only.split(",") if name)
    if unknown := [name for name in names if name not in RULES]:
        raise typer.BadParameter(f"expected rules of {', '.join(RULES)}, got {unknown[0]!r}")
    if mode not in ("level", "ring"):
        raise typer.BadParameter(f"--mode: expected level or ring, got {mode!r}")
    terms = Terms(
        host=host,
        port=port,
        word_order="low_first" if low_word_first else "high_first",
        mode=mode,
        deadline_ms=deadline_ms,
        acknowledge_ms=acknowledge_ms,
        network_ms=network_ms,
    )
    try:
        report = asyncio.run(check(terms, names))
    except NoBox as err:
        expected = "an appliance's Modbus server"
        sys.stderr.write(f"inspectd: {host}:{port}: expected {expected}, got {err}\n")
        raise typer.Exit(1) from err
    if html_file is not None:
        try:
            write_atomically(html_file, report.as_html().encode())
        except OSError as err:
            raise ConfigError(html_file, "a file that can be written", str(err)) from err
    sys.stdout.write(f"{json.dumps(report.as_object())}\n" if as_json else report.as_text())
    raise typer.Exit(0 if report.is_conformant else 1)
