"""A bundle and labelled images → a new bundle with regions, detectors, forest.

A bundle never changes, so everything goes into a new one, whole or not at all: the network of the
old one, with further detectors written behind it where they are asked for, a segment map, a forest
fitted on images that the network never saw, and what the held-out gate says about it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx

from appliance import forest
from appliance.bundle import Bundle, Golden, Manifest, Suggested, finish_bundle
from appliance.engine_opening import GRAPHS
from appliance.errors import ArtefactError, ConfigError
from appliance.scores import Decides, Heard, Unit, average
from appliance.segments import CLASSIFICATION, column_names
from models import bundle_files, gate, memory, progress, segad
from models.dataset import Dataset, Sample, read_image
from models.detectors import Adapter, described, with_detector
from models.evaluate import Answers, Scorer
from models.export import Preprocessor
from models.gate import auroc
from models.generated import Damage
from models.graphs import in_order
from models.regions import read_segments

Report = Callable[[str, float], None]
Floats = npt.NDArray[np.float32]

_NETWORKS = (*GRAPHS, "network.int8.onnx")


@dataclass(frozen=True)
class Wish:
    """What a refit may be asked for."""

    segments: Path | None = None
    """PNG of labels or colours; None keeps the bundle's map."""
    memory: bool = False
    """Add the nearest-neighbour memory as a detector."""
    detectors: tuple[Adapter, ...] = ()
    classification: bool = False
    """The forest reads the classification logit too (the paper's g), as it does where the bundle's
    forest did."""
    bad: int | None = None
    """Labelled bad images that may be used, drawn by the seed; None = all."""
    generated: bool = False
    """The forest learns from bad images made of good ones (one-class protocol); real bad ones, as
    far as there are, are for the gate and the limits alone, and no average hears such a forest."""
    force: Decides | None = None
    seed: int = 0


def refit(
    bundle: Bundle, data: Dataset, out: Path, wish: Wish, report: Report = progress.ignore
) -> Bundle:
    """Write the new bundle `out` and load it.

    Images that the bundle's network has learnt from are left out of everything. Raises ConfigError
    on unusable images or wishes, ArtefactError where `out` exists.
    """
    if out.exists():
        raise ArtefactError(out, "a bundle directory that is not there yet", "an existing one")
    data = unknown_to(bundle, data)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    draft.chmod(0o755)
    try:
        manifest = _write_draft(bundle, data, draft, wish, report)
        finished = finish_bundle(draft, out, manifest)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    report("done", 1.0)
    return finished


def _write_draft(
    bundle: Bundle, data: Dataset, draft: Path, wish: Wish, report: Report
) -> Manifest:
    old = bundle.manifest
    contract = old.input
    size = contract.map_size
    labels, names = bundle.segment_map(), old.segments
    if wish.segments is not None:
        labels, names = read_segments(wish.segments, size)
    model = onnx.load(bundle.path("network.onnx"))
    model, detectors = _with_detectors(bundle, data, model, wish, report)

    known, truth = _labelled(data, wish)
    scorer = Scorer(model, contract, labels, len(names))
    damage = Damage(labels, wish.seed)
    frames = _frames(data, known, truth if wish.generated else None, damage)
    total = len(known) + len(data.held_out)
    answers = scorer.score(frames, lambda done: report("scoring", 0.2 + 0.4 * done / total))

    # The detector that tells good from bad best by its maximum leads: map_max is its, and people
    # see its map. Without bad images the order stays.
    order = _order(answers, truth, names, detectors)
    before = column_names(names, detectors)
    model, detectors = in_order(model, order), tuple(detectors[i] for i in order)
    classification = wish.classification or CLASSIFICATION in old.columns
    columns = column_names(names, detectors, classification=classification)
    answers = _reordered(answers, before, column_names(names, detectors))
    scorer = Scorer(model, contract, labels, len(names))
    margins = {"map_max": answers.map_max, "classification": answers.classification}
    fitted: forest.Forest | None = None
    folds: npt.NDArray[np.int64] | None = None
    if min(int(truth.sum()), int((1 - truth).sum())) >= segad.FOLDS:
        fitted, margins["segad"], folds = segad.fit_with_margins(
            answers.rows(columns), truth, columns, wish.seed,
            lambda done: report("forest", 0.6 + 0.2 * done),
        )  # fmt: skip
    judged, told, units = margins, truth, dict[Heard, Unit]()
    if wish.generated:
        judged, told = _judged_on_real(margins, truth, scorer, data, wish, columns, fitted)
        folds = None  # real bad parts are judged by the whole forest
    else:
        judged, units = segad.with_average(margins, truth)
        margins = judged
    usual = gate.usual_score(old.provenance)
    suggested = segad.suggest(
        judged, told, folds=folds, usual=usual, force=wish.force, seed=wish.seed
    )

    _copy(bundle, draft, keeps_networks=detectors == old.detectors)
    if detectors != old.detectors:
        onnx.save(model, draft / "network.onnx")
    bundle_files.write_segments(draft, labels, names)
    if fitted is not None:
        fitted.save(draft / "segad.ubj")
    bundle_files.write_features(draft, answers.rows(columns), truth, known, margins)
    golden = old.golden
    if detectors != old.detectors:
        golden = _golden(bundle, draft, data, scorer)
    metrics = {f"limits_{name}": value for name, value in suggested.evidence.items()}
    if data.held_out:
        held_out = scorer.score(
            _frames(data, data.held_out),
            lambda done: report("scoring", 0.8 + 0.2 * done / len(data.held_out)),
        )
        scores = {"map_max": held_out.map_max, "classification": held_out.classification}
        if fitted is not None:
            rows = held_out.rows(columns)
            scores["segad"] = np.array([fitted.margin(row) for row in rows], np.float32)
        if units:
            scores["average"] = average(scores, units)
        metrics |= segad.held_out_metrics(scores, [s.label for s in data.held_out], suggested)
    return msgspec.structs.replace(
        old,
        created_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        files={},
        detectors=detectors,
        segments=names,
        columns=columns,
        forest="segad.ubj" if fitted is not None else "",
        units=units,
        golden=golden,
        suggested=suggested,
        metrics=metrics,
        provenance=old.provenance | _provenance(bundle, data, wish, known, truth),
    )


def _with_detectors(
    bundle: Bundle, data: Dataset, model: onnx.ModelProto, wish: Wish, report: Report
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    contract = bundle.manifest.input
    size = contract.network_size
    detectors = bundle.manifest.detectors
    added = [adapter.name for adapter in wish.detectors]
    added = [*([memory.NAME] if wish.memory else []), *added]
    for name in added:
        if [*detectors, *added].count(name) > 1:
            raise ConfigError(f"detector {name}", "a name that is not taken", "one that is")
    if wish.memory:
        preprocess, good = Preprocessor(contract), data.network_good

        def inputs() -> Iterator[npt.NDArray[np.float32]]:
            for number, sample in enumerate(good):
                report("memory", 0.2 * number / len(good))
                yield preprocess(data.pixels([sample]))[0]

        model = memory.with_memory(model, inputs(), len(good), size, wish.seed)
    for adapter in wish.detectors:
        model = with_detector(model, adapter, size)
    return model, (*detectors, *added)


def _labelled(data: Dataset, wish: Wish) -> tuple[tuple[Sample, ...], npt.NDArray[np.int64]]:
    """Images of the forest and the limits, and 1 where they stand for a bad part."""
    good, bad = data.limits_good, data.limits_bad
    if wish.bad is not None:
        chosen = np.random.default_rng(wish.seed).permutation(len(bad))[: wish.bad]
        bad = tuple(bad[index] for index in chosen)
    if not wish.generated:
        known = (*good, *bad)
        return known, np.array([sample.label for sample in known], np.int64)
    # Half of the good images stay good, of the other half each is damaged twice: no image is in
    # both classes, or the forest would learn the picture and not the damage.
    order = np.random.default_rng(wish.seed).permutation(len(good))
    half = len(good) // 2
    whole = [good[index] for index in order[half:]]
    damaged = [good[index] for index in order[:half] for _ in range(2)]
    return (*whole, *damaged), np.array([0] * len(whole) + [1] * len(damaged), np.int64)


def _judged_on_real(
    margins: dict[str, Floats],
    truth: npt.NDArray[np.int64],
    scorer: Scorer,
    data: Dataset,
    wish: Wish,
    columns: Sequence[str],
    fitted: forest.Forest | None,
) -> tuple[dict[str, Floats], npt.NDArray[np.int64]]:
    """For the gate: the good images' margins, and those of real bad images, as far as there are.

    That a forest tells generated defects from good parts proves nothing about real ones.
    """
    good = {name: values[truth == 0] for name, values in margins.items()}
    bad, _ = _labelled(data, replace(wish, generated=False))
    real = [sample for sample in bad if sample.label]
    if not real:
        return good, np.zeros(len(good["map_max"]), np.int64)
    answers = scorer.score(_frames(data, real))
    scores = {"map_max": answers.map_max, "classification": answers.classification}
    if fitted is not None:
        rows = answers.rows(columns)
        scores["segad"] = np.array([fitted.margin(row) for row in rows], np.float32)
    together = {name: np.concatenate([good[name], scores[name]]) for name in good}
    return together, np.array([0] * len(good["map_max"]) + [1] * len(real), np.int64)


def _frames(
    data: Dataset,
    samples: Sequence[Sample],
    damaged: npt.NDArray[np.int64] | None = None,
    damage: Damage | None = None,
) -> Iterator[npt.NDArray[np.uint8]]:
    for number, sample in enumerate(samples):
        frame = data.pixels([sample])[0]
        yield (
            damage(frame)
            if damage is not None and damaged is not None and damaged[number]
            else frame
        )


def _order(
    answers: Answers,
    truth: npt.NDArray[np.int64],
    names: Sequence[str],
    detectors: Sequence[str],
) -> list[int]:
    places = list(range(len(detectors)))
    if not 0 < truth.sum() < len(truth) or len(places) == 1:
        return places
    columns = column_names(names, detectors)
    largest = [answers.features[:, columns.index(f"*/{name}/max")] for name in detectors]
    return sorted(places, key=lambda place: -auroc(largest[place], truth))


def _reordered(answers: Answers, before: Sequence[str], after: Sequence[str]) -> Answers:
    features = answers.features[:, [before.index(column) for column in after]]
    first = next(place for place, column in enumerate(after) if column.startswith("*/"))
    return answers._replace(features=features, map_max=features[:, first])


def unknown_to(bundle: Bundle, data: Dataset) -> Dataset:
    """Forest, limits and metrics without what the network has learnt from, whatever the split."""
    learnt = bundle_files.learnt_by_network(bundle.folder)

    def rest(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
        return tuple(sample for sample in samples if sample.sha256 not in learnt)

    left = replace(
        data, limits_good=rest(data.limits_good), limits_bad=rest(data.limits_bad),
        held_out=rest(data.held_out),
    )  # fmt: skip
    if len(left.limits_good) < segad.FOLDS:
        raise ConfigError(
            data.name,
            f"{segad.FOLDS} or more good images that the bundle's network has not learnt from",
            f"{len(left.limits_good)}; was the seed that of the training?",
        )
    return left


def _copy(bundle: Bundle, draft: Path, *, keeps_networks: bool) -> None:
    """All files but those that are written anew."""
    anew = ("segments.", "segad.ubj", "features/", "baseline.npz", "manifest.json")
    anew = (*anew, "report.html")  # of the training: its figures are those of the old forest
    for name in bundle.manifest.files:
        changes = name in _NETWORKS and not keeps_networks
        changes = changes or (name.startswith("golden/") and not keeps_networks)
        if not changes and not name.startswith(anew):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), draft / name)


def _golden(bundle: Bundle, draft: Path, data: Dataset, scorer: Scorer) -> tuple[Golden, ...]:
    """The same frames with what the changed graph answers to them."""
    golden: list[Golden] = []
    (draft / "golden").mkdir()
    for entry in bundle.manifest.golden:
        shutil.copyfile(bundle.path(entry.image), draft / entry.image)
        amap, score = scorer.answer(read_image(bundle.path(entry.image)).reshape(data.source))
        np.savez_compressed(draft / entry.outputs, map=amap, score=score)
        golden.append(entry)
    return tuple(golden)


def _provenance(
    bundle: Bundle,
    data: Dataset,
    wish: Wish,
    known: Sequence[Sample],
    truth: npt.NDArray[np.int64],
) -> dict[str, str]:
    told = {
        "segad_from_bundle": bundle.id,
        "segad_data": data.name,
        "segad_seed": str(wish.seed),
        "segad_bad": f"{int(truth.sum())} {'generated' if wish.generated else 'labelled'}",
        "segad_good": str(int((1 - truth).sum())),
        "segad_images": str(len({sample.sha256 for sample in known})),
    }
    told |= {f"detector_{a.name}": described(a) for a in wish.detectors}
    if wish.memory:
        good = len(data.network_good)
        told[f"detector_{memory.NAME}"] = f"{memory.SIZE} vectors of {good} images"
    return told


def helps(suggested: Suggested) -> bool:
    """The forest has a say: alone or in the average, or because a person wants it so."""
    return suggested.decides in ("segad", "average") or suggested.is_forced
