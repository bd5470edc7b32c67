"""What a run of parts was worth: the words that the PLC read, joined with the labels. Pure but
for reading the store."""

import importlib.metadata
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from appliance.bundle import Bundle
from appliance.codes import Reason, Word
from appliance.config import Config
from appliance.database import where
from appliance.store import Store
from models.metrics import image_metrics


def summarise(
    config: Config,
    bundle: Bundle,
    labels: dict[int, int],
    parts_file: Path,
    ledger: dict[str, int],
    counters: dict[str, int],
) -> dict[str, Any]:
    """The summary object; figures that do not apply are None, never 0.

    labels: PartTag → 1 where the part is bad. parts_file: one JSON line per part, as the PLC saw
    it. ledger and counters: the last that decide published.
    """
    seen = [json.loads(line) for line in parts_file.read_text().splitlines()]
    words = Counter(Word(part["word"]) for part in seen)
    truth = {part["tag"]: labels[(part["tag"] - 1) % len(labels) + 1] for part in seen}
    judged = [p for p in seen if p["margin"] is not None]
    rows = _rows(config, len(seen))
    latencies = np.array([row.latency_ns / 1e6 for row in rows])
    return {
        "parts": len(seen),
        "verdicts": ledger.get("verdicts"),
        "unaccounted": ledger.get("unaccounted"),
        "ok": words[Word.OK],
        "ng": words[Word.NG],
        "uncertain": words[Word.UNCERTAIN],
        "error": words[Word.ERROR] + words[Word.NONE],
        "late": counters.get("late"),
        "frames_lost": counters.get("frames_lost"),
        "reasons": dict(Counter(Reason(p["reason"]).name for p in seen)),
        "escapes": sum(p["word"] == Word.OK and truth[p["tag"]] == 1 for p in seen),
        "overkill": sum(p["word"] == Word.NG and truth[p["tag"]] == 0 for p in seen),
        "deadline_ms": config.deadline_ms,
        "latency_ms": _quantiles(latencies, "p50", "p99", "max"),
        "stages_ms": _stages([row.stages_ns for row in rows]),
        "image_auroc": bundle.manifest.metrics.get("image_auroc"),
        "auroc_shown": _auroc([truth[p["tag"]] for p in judged], [p["margin"] for p in judged]),
        "bundle": bundle.id,
        "recipe": rows[0].recipe if rows else None,
        "engine": f"{config.engine.kind} {config.engine.precision}",
        "version": importlib.metadata.version("inspectd"),
    }


def _rows(config: Config, count: int) -> list[Any]:
    store = Store(where(config), is_reader=True)
    try:
        return [row.verdict for row in store.last(count)]
    finally:
        store.close()


def _quantiles(values: Any, *names: str) -> dict[str, float | None]:
    places = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    if not len(values):
        return dict.fromkeys(names)
    return {name: round(float(np.quantile(values, places[name])), 2) for name in names}


def _stages(rows: list[dict[str, int]]) -> dict[str, dict[str, float | None]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: _quantiles(np.array([row[name] / 1e6 for row in rows if name in row]), "p50", "p99")
        for name in names
    }


def _auroc(truth: list[int], margins: list[float]) -> float | None:
    if len(set(truth)) < 2:
        return None
    return round(image_metrics(truth, margins)["auroc"], 4)
