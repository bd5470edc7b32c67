"""`inspectd replay`: recordings, or a folder or video of pictures, judged once more."""

import csv
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import cv2
import msgspec
import typer

from appliance.bundle import load_bundle
from appliance.config import Config, load_config
from appliance.engine_opening import passport_of
from appliance.errors import ArtefactError, ConfigError
from appliance.recipe import LoadedRecipe, load_recipe, setup_hash
from appliance.recording import Recording
from appliance.replay import Player, WhatIf, recorded_recipe
from appliance.replay_infer import Engines
from appliance.replay_pictures import has_pictures, play_pictures
from appliance.replay_report import Report
from appliance.replay_stage import Pair, Told
from appliance.service import EXIT_DONE, EXIT_NO
from appliance.summary import summarise_verdicts

_PROGRESS_S = 2.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How recordings are played: what a worker on another machine is told, too."""

    config: str
    recipe: str = ""
    bundle: str = ""
    is_golden: bool = False
    is_real_time: bool = False
    is_partial: bool = False


def main(
    recordings: Annotated[
        list[Path],
        typer.Argument(help="Recordings (a directory, or one .mcap), or a folder or a video."),
    ],
    config: Annotated[Path, typer.Option(help="Whose bundles and engine judge.")] = Path(
        "config.toml"
    ),
    recipe: Annotated[str, typer.Option(help="What if: judge by this recipe, ID/VERSION.")] = "",
    bundle: Annotated[
        str, typer.Option(help="What if: judge by this bundle, its directory below bundles/.")
    ] = "",
    golden: Annotated[
        bool,
        typer.Option("--golden", help="Acceptance test before an update: every word as recorded."),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="Accept a recording that lacks something or is damaged."),
    ] = False,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="As fast as it happened, not as fast as it goes.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with part_id and is_bad (0 or 1): counts escapes and overkill."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Write the pictures of flipped or differing parts here.")
    ] = None,
    ray: Annotated[
        str,
        typer.Option(
            help='Play on a Ray cluster: its address, "local" or "local:N". Needs `cluster`.'
        ),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One object on standard output.")] = False,
) -> None:
    """Judge recorded frames once more, by the same code on the clock of the recording.

    Compares verdict by verdict and exits with 1 when anything differs. With --recipe or --bundle
    it tells what would flip instead. On the engine that recorded it, every margin is equal bit for
    bit; on another one, parts within tolerance of a limit are listed as undecidable.
    """
    loaded = load_config(config)
    truth = read_labels(labels) if labels else {}
    if all(has_pictures(path) for path in recordings):
        given = {
            "--golden": golden, "--partial": partial, "--real-time": real_time,
            "--labels": labels, "--pictures": pictures, "--ray": ray,
        }  # fmt: skip
        if unused := [option for option, value in given.items() if value]:
            expected = "a recording: pictures have no verdicts to compare with"
            raise ConfigError(" ".join(unused), expected, ", ".join(map(str, recordings)))
        _pictures(loaded, recordings, recipe, bundle, as_json)
        return
    options = Options(
        config=str(config.resolve()),
        recipe=recipe,
        bundle=bundle,
        is_golden=golden,
        is_real_time=real_time,
        is_partial=partial,
    )
    if ray:
        from appliance.replay_cluster import play_on_cluster

        reports: Iterator[Report] = play_on_cluster(recordings, options, loaded, ray)
    else:
        reports = _play_here(recordings, options, loaded)
    total = Report(is_what_if=bool(recipe or bundle), is_golden=golden)
    for report in reports:
        total.merge(report)
    if total.is_lossy and not partial:
        sys.stderr.write("".join(f"{line}\n" for line in total.lines(truth)))
        where = ", ".join(map(str, recordings))
        raise ConfigError(where, "a complete recording (or --partial)", "a lossy one")
    engine = f"{loaded.engine.kind} {loaded.engine.precision}"
    if pictures is not None:
        write_pictures(pictures, total, recordings)
    out = sys.stderr if as_json else sys.stdout
    out.write("".join(f"{line}\n" for line in total.lines(truth)))
    if as_json:
        answer = total.as_object(truth, loaded.deadline_ms, engine)
        sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    raise typer.Exit(EXIT_DONE if total.is_good else EXIT_NO)


def _play_here(recordings: list[Path], options: Options, config: Config) -> Iterator[Report]:
    engines = Engines(config)
    try:
        for path in recordings:
            yield play_one(path, options, config, engines)
    finally:
        engines.close()


def play_one(
    path: Path, options: Options, config: Config, engines: Engines, is_quiet: bool = False
) -> Report:
    """One recording, from its first segment to its last. Raises ArtefactError.

    is_quiet: how far it is goes to nobody.
    """
    recording = Recording(path, is_forgiving=options.is_partial)
    if recording.damaged:
        sys.stderr.write(f"{path}: {recording.damaged} damaged places: left out\n")
    if recording.open_segments:
        sys.stderr.write(f"{path}: {recording.open_segments} segment still open: not read\n")
    what_if = _what_if(options, config, recording)
    report = Report(is_what_if=what_if is not None, is_golden=options.is_golden)
    player = Player(recording, config, engines, what_if, options.is_real_time)
    tolerances: dict[str, float] = {}
    begun = shown = time.monotonic()
    for played in player.play():
        pair = played.pair if isinstance(played, Told) else played
        tolerance = tolerance_of(pair, tolerances, recording, config)
        if isinstance(played, Told):
            report.take_words(played, tolerance)
        else:
            report.take(pair, tolerance, str(path))
        if not is_quiet and time.monotonic() - shown > _PROGRESS_S:
            shown = time.monotonic()
            sys.stderr.write(f"{path.name}: {len(report.verdicts)} parts\n")
    report.ended(player.losses, time.monotonic() - begun, player.engine_ns / 1e9)
    return report


def _what_if(options: Options, config: Config, recording: Recording) -> WhatIf | None:
    if not options.recipe and not options.bundle:
        return None
    if options.recipe:
        loaded = load_recipe(config, options.recipe)
    else:
        names = sorted(n.partition(":")[2] for n in recording.notes if n.startswith("recipe:"))
        if len(names) != 1:
            raise ArtefactError(recording.path, "one recipe, or --recipe", f"{names}")
        loaded = load_recipe(config, names[0])
    if options.bundle:
        loaded = _on_bundle(loaded, config, options.bundle)
    return WhatIf(loaded)


def _on_bundle(loaded: LoadedRecipe, config: Config, name: str) -> LoadedRecipe:
    """The recipe as it would be with this bundle."""
    bundle = load_bundle(config.bundles_dir / name)
    recipe = msgspec.structs.replace(loaded.recipe, bundle=bundle.id, bundle_dir=name)
    return msgspec.structs.replace(loaded, recipe=recipe, setup_hash=setup_hash(recipe))


def tolerance_of(
    pair: Pair, known: dict[str, float], recording: Recording, config: Config
) -> float:
    """0 on the passports that recorded the part, else what both precisions may move a logit by: of
    several views, that of the bundle that allows most.

    known: by passport, filled here. Raises ArtefactError.
    """
    if pair.replayed is None:
        return 0.0
    views = zip(pair.recorded.by_view(), pair.replayed.by_view(), strict=False)
    moved = [old for old, new in views if old.passport and new.passport not in ("", old.passport)]
    for old in moved:
        if old.passport not in known:
            facts = recording.notes.get(f"recipe:{old.recipe}")
            recipe = (
                recorded_recipe(old.recipe, facts) if facts else load_recipe(config, old.recipe)
            )
            folder = config.bundles_dir / recipe.recipe.terms(old.camera).bundle_dir
            tolerances = load_bundle(folder, old.bundle).manifest.tolerances
            precisions = recording.about.get("precision", "fp32"), config.engine.precision
            known[old.passport] = sum(tolerances.get(precision, 0.0) for precision in precisions)
    return max((known[old.passport] for old in moved), default=0.0)


def read_labels(path: Path) -> dict[int, bool]:
    """part_id → is it bad. Raises ConfigError, naming the line."""
    labels: dict[int, bool] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    labels[int(row["part_id"])] = bool(int(row["is_bad"]))
                except (KeyError, TypeError, ValueError) as err:
                    expected = "the columns part_id and is_bad, both numbers"
                    raise ConfigError(f"{path}: line {number}", expected, str(row)) from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(path, "a CSV file", str(err)) from err
    return labels


def write_pictures(folder: Path, report: Report, recordings: list[Path]) -> None:
    """PNG of every flipped part: `PART-WAS-NOW.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    opened: dict[str, Recording] = {}
    for flip in report.flips:
        if flip.picture is None:
            continue
        if flip.recording not in opened:
            opened[flip.recording] = Recording(Path(flip.recording))
        _, pixels = opened[flip.recording].image(*flip.picture)
        if pixels.ndim == 3:
            pixels = pixels[:, :, ::-1]
        name = f"{flip.part_id}-{flip.was.name}-{flip.now.name}.png"
        cv2.imwrite(str(folder / name), pixels)


def _pictures(config: Config, paths: list[Path], recipe: str, bundle: str, as_json: bool) -> None:
    if not recipe:
        raise ConfigError("--recipe", "the recipe that judges these pictures", "none")
    loaded = load_recipe(config, recipe)
    if bundle:
        loaded = _on_bundle(loaded, config, bundle)
    verdicts, truth = play_pictures(config, loaded, paths)
    folder = config.bundles_dir / loaded.recipe.bundle_dir
    opened = load_bundle(folder, loaded.recipe.bundle)
    passport = passport_of(config.engine, opened, config.engines_dir)
    engine = f"{passport.kind} {passport.precision}"
    answer: Mapping[str, Any] = summarise_verdicts(verdicts, truth, None, engine)
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=1) + "\n")
        return
    for verdict in verdicts:
        margin = "" if verdict.margin is None else f" {verdict.margin:.4g}"
        sys.stdout.write(f"{verdict.source}: {verdict.word.name}{margin} {verdict.detail}\n")
    keys = ("parts", "ok", "ng", "uncertain", "error", "escapes", "overkill", "auroc_shown")
    sys.stdout.write(", ".join(f"{key} {answer[key]}" for key in keys) + "\n")
