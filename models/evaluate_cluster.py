"""Held-out images scored by many workers, each with one session; their answers are put together."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from appliance.bundle import Bundle, load_bundle
from appliance.cluster import deal
from models.dataset import Dataset
from models.evaluate import Answers, Scored, Scorer, score_with, scorer_of

IMAGES = 16
"""Per call."""


def score_on(address: str) -> Callable[[Bundle, Dataset, Callable[[int], None]], Scored]:
    """What `judge` takes instead of `score_here`. address: see `cluster.deal`."""

    def score(bundle: Bundle, data: Dataset, report: Callable[[int], None]) -> Scored:
        held_out = data.held_out
        bare = replace(data, network_good=(), limits_good=(), limits_bad=(), network_bad=())
        calls = [
            (str(bundle.folder.resolve()), replace(bare, held_out=held_out[at : at + IMAGES]))
            for at in range(0, len(held_out), IMAGES)
        ]
        found: list[Scored] = []
        for answers in deal(_score, calls, address):
            found.append(answers)
            report(sum(len(maps) for _, maps in found))
        answers = Answers(
            *(np.concatenate(rows) for rows in zip(*(a for a, _ in found), strict=True))
        )
        return answers, [amap for _, maps in found for amap in maps]

    return score


def _score(call: tuple[str, Dataset]) -> Scored:
    folder, data = call
    return score_with(_scorer(folder), data)


@lru_cache(maxsize=1)
def _scorer(folder: str) -> Scorer:
    """Of this worker, as long as it lives."""
    return scorer_of(load_bundle(Path(folder)))
