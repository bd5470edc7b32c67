"""`inspectd calibrate`: two limits from labelled parts, what they prove, a recipe that has them.

The same functions as the page. Calibrate parts choose the limits, verify parts judge them; which
part is which was drawn by a seed before any margin was seen.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
import typer

from appliance import config as configuration
from appliance.audit import AuditJournal
from appliance.bundle import Bundle, load_bundle
from appliance.config import load_config
from appliance.errors import ConfigError
from appliance.recipe import Limits, Recipe
from appliance.scores import Decides
from appliance.service import start_logging
from calibration.bounds import Share, figure, percent
from calibration.evidence import Evidence, gather
from calibration.limits import Outcome, Target, outcome, propose, separate, summary, told
from calibration.publish import newest, publish
from calibration.reason import checked
from calibration.tradeoff import false_alarms_at
from models import progress
from models.dataset import open_dataset

Verified = Literal["proved", "open", "refuted"]


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle directory.")],
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    max_escape: Annotated[float, typer.Option(help="Share of bad parts that may get OK.")] = 0.01,
    max_overkill: Annotated[
        float, typer.Option(help="Share of good parts that may get NG.")
    ] = 0.05,
    confidence: Annotated[float, typer.Option(help="One-sided, of every bound.")] = 0.95,
    per_type: Annotated[
        bool, typer.Option(help="Keep --max-escape for every defect type, not for their mix.")
    ] = True,
    guard_band: Annotated[
        float, typer.Option(min=0, help="Least T2 - T1 in margins: 6 sigma of repeatability.")
    ] = 0.0,
    decides: Annotated[
        str, typer.Option(help=f"{', '.join(get_args(Decides))}; default: as trained.")
    ] = "",
    part: Annotated[
        str,
        typer.Option(
            help="Regular expression with a group `part` for file names: several views of a part "
            "count once. Default: every picture is a part."
        ),
    ] = "",
    verify: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the parts kept for verifying.")
    ] = 0.5,
    looks: Annotated[
        int, typer.Option(min=1, help="Proposals that these verify parts are planned to judge.")
    ] = 1,
    defect_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of bad parts in production, for ppm.")
    ] = 0.005,
    seed: Annotated[int, typer.Option(help="Deals out the parts.")] = 0,
    engine: Annotated[str, typer.Option(help="onnx, openvino or null: that of the line.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or int8.")] = "fp32",
    recipe: Annotated[
        str, typer.Option(help="Write the limits as the next version of this recipe.")
    ] = "",
    config: Annotated[Path, typer.Option(help="config.toml, for --recipe.")] = Path("config.toml"),
    by: Annotated[str, typer.Option(help="Who sets the limits.")] = "",
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Limits from evidence: what is proved, what is not, and how many parts would do.

    Exit code 1: the parts do not prove the target, or the verify parts contradict it; no recipe is
    written then.
    """
    for name, value in (("--max-escape", max_escape), ("--max-overkill", max_overkill)):
        if not 0 < value < 1:
            raise ConfigError(name, "a share between 0 and 1", str(value))
    if not 0.5 <= confidence < 1:
        raise ConfigError("--confidence", "0.5 to below 1", str(confidence))
    if recipe and not (by and reason):
        raise ConfigError("--recipe", "--by and --reason with it", "neither or one")
    if recipe:
        checked(reason)  # before minutes of scoring
    loaded = load_bundle(bundle)
    score = _score(loaded, decides)
    target = Target(max_escape, max_overkill, confidence, per_type)
    evidence = _gather(loaded, data, seed, engine, precision, part)
    kinds = evidence.kinds()
    fresh = separate(list(kinds), list(kinds.values()), seed, verify)
    chosen = evidence.parts(score, set(kinds) - fresh)
    proposal = propose(chosen, target, guard_band)
    answer: dict[str, Any] = {
        "product": loaded.manifest.product,
        "bundle": loaded.id,
        "decides": score,
        "engine": f"{engine} {precision}",
        "target": target._asdict(),
        "views": len(evidence.views),
        "left_out": {"learnt": evidence.learnt, "unhealthy": evidence.unhealthy},
        "calibrate": dict(Counter(chosen.kinds)),
        "verify": dict(Counter(kinds[name] for name in fresh)),
        "t1": proposal.t1,
        "t2": proposal.t2,
        "advice": proposal.advice,
        "on_average": proposal.on_average,
        "proved": {"escape": proposal.proved_escape, "overkill": proposal.proved_overkill},
        "false_alarms_at": {},
        "estimate": None,
        "verified": None,
        "is_proved": proposal.is_proved,
        "recipe": None,
    }
    if len(chosen.bad) and len(chosen.good):
        answer["false_alarms_at"] = {
            f"{recall:.0%}": told(false_alarms_at(chosen, recall, confidence))
            for recall in (0.95, 0.99, 1.0)
        }
    if proposal.t1 is not None and proposal.t2 is not None:
        limits = (proposal.t1, proposal.t2)
        seen = outcome(chosen, *limits, confidence)
        answer["estimate"] = summary(seen, defect_rate)
        if fresh:
            judged = outcome(evidence.parts(score, fresh), *limits, confidence, looks)
            verdicts = verified(judged, target)
            answer["verified"] = summary(judged, defect_rate) | {"says": verdicts}
            answer["is_proved"] = "refuted" not in verdicts.values()
        if recipe and answer["is_proved"]:
            answer["recipe"] = _write(config, recipe, loaded, score, limits, by, reason, answer)
    if json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    else:
        _print(answer)
    raise typer.Exit(0 if answer["is_proved"] else 1)


def verified(seen: Outcome, target: Target) -> dict[str, Verified]:
    """What fresh parts say to each promise: proved, open (too few to tell) or refuted."""

    def says(share: Share, most: float) -> Verified:
        if share.upper <= most:
            return "proved"
        return "refuted" if share.lower > most else "open"

    escapes = dict(seen.escapes) if target.per_type else {"all": seen.escapes_all}
    answer: dict[str, Verified] = {}
    for name, one in escapes.items():
        answer[f"escapes {name}"] = says(one, target.max_escape)
    answer["overkill"] = says(seen.overkill, target.max_overkill)
    return answer


def _score(bundle: Bundle, asked: str) -> Decides:
    suggested = bundle.manifest.suggested
    score = asked or (suggested.decides if suggested else "map_max")
    if score not in get_args(Decides):
        raise ConfigError("--decides", " or ".join(get_args(Decides)), repr(asked))
    if score not in bundle.manifest.scores:
        raise ConfigError("--decides", f"one of {', '.join(bundle.manifest.scores)}", score)
    return cast("Decides", score)


def _gather(
    bundle: Bundle, data: str, seed: int, engine: str, precision: str, part: str
) -> Evidence:
    try:
        settings = msgspec.convert({"kind": engine, "precision": precision}, configuration.Engine)
    except msgspec.ValidationError as err:
        raise ConfigError("--engine, --precision", "known ones", str(err)) from err
    dataset = open_dataset(data, seed)
    with progress.shown() as report, tempfile.TemporaryDirectory() as cache:
        return gather(
            bundle, dataset, settings, Path(cache), part, lambda done: report("scoring", done)
        )


def _write(
    config_path: Path,
    identity: str,
    bundle: Bundle,
    score: Decides,
    limits: tuple[float, float],
    by: str,
    reason: str,
    evidence: dict[str, Any],
) -> str:
    start_logging()
    config = load_config(config_path)
    if bundle.folder.resolve().parent != config.bundles_dir:
        raise ConfigError("bundle", f"one below {config.bundles_dir}", str(bundle.folder))
    base = newest(config, identity)
    start = Recipe(
        id=identity, version=0, bundle=bundle.id, bundle_dir=bundle.folder.name, decides=score,
        limits=Limits(
            t1=limits[0], t2=limits[1], settings=base.recipe.limits.settings if base else {}
        ),
        camera=base.recipe.camera if base else {},
    )  # fmt: skip
    told = {k: evidence[k] for k in ("target", "calibrate", "verify", "proved", "verified")}
    journal = AuditJournal(config)
    written = publish(
        config, journal, start, limits, who=by, reason=reason, evidence=told, source="command"
    )
    return written.name


def _print(answer: dict[str, Any]) -> None:
    """The evidence in words."""
    write = sys.stdout.write
    for name in ("calibrate", "verify"):
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(answer[name].items()))
        write(f"{name:10} {counts or 'no parts'}\n")
    left_out = answer["left_out"]
    write(
        f"left out   {left_out['learnt']} pictures that the bundle has learnt from, "
        f"{left_out['unhealthy']} that fail the image gates\n"
    )
    write(f"decides    {answer['decides']} ({answer['engine']})\n")
    for sentence in answer["advice"]:
        write(f"{sentence}\n")
    for sentence in answer["on_average"]:
        write(f"not proved {sentence}\n")
    for recall, alarms in answer["false_alarms_at"].items():
        write(f"estimate   {recall} of the bad found: false alarms {_words(alarms)}\n")
    if answer["t1"] is None or answer["t2"] is None:
        write("no limits: what was asked for is not provable with these parts\n")
        return
    write(f"limits     OK below {answer['t1']:.4f}, NG from {answer['t2']:.4f}\n")
    _print_outcome("estimate", answer["estimate"])
    if answer["verified"] is None:
        write("verify     no parts kept: only the bounds above are proved\n")
    else:
        _print_outcome("verify", answer["verified"])
        for promise, says in answer["verified"]["says"].items():
            write(f"verify     {promise}: {says}\n")
    if answer["recipe"]:
        write(f"recipe     {answer['recipe']} written; products.toml says when it is used\n")


def _print_outcome(name: str, seen: dict[str, Any]) -> None:
    rows = {f"escapes, {kind}": share for kind, share in seen["escapes"].items()}
    rows |= {"escapes, all": seen["escapes_all"], "overkill": seen["overkill"]}
    for what, share in rows.items():
        sys.stdout.write(f"{name:10} {what}: {_words(share)}\n")
    load, ppm = seen["review_load"], seen["escape_ppm"]
    sys.stdout.write(f"{name:10} review load: {_pair(load, percent)}\n")
    sys.stdout.write(
        f"{name:10} escapes per million delivered at {percent(ppm['defect_rate'])} defects: "
        f"{_pair(ppm, figure)}\n"
    )


def _words(share: dict[str, Any]) -> str:
    return f"{share['cases']} of {share['total']}, at most {percent(share['upper'])}"


def _pair(value: dict[str, Any], shown: Callable[[float], str]) -> str:
    seen = value["estimate"]
    return f"{'unknown' if seen is None else shown(seen)}, at most {shown(value['upper'])}"
