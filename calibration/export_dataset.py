"""`inspectd export-dataset`: what people said about parts, with pictures, for the next training.

In: rows with an archived picture, and the newest label of each. Out: a folder in the MVTec layout,
`train/good`, `train/DEFECT`, `test/good`, `test/DEFECT`, one lossless file per part, and
`parts.csv`, which says where each came from; on a line with several cameras, of one camera. Whether
a part is for training or for the test follows from its id, so that the same part is on the same
side in every export.
"""

import csv
import hashlib
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from appliance.archive import view_path
from appliance.audit import AuditJournal
from appliance.config import Config, load_config
from appliance.database import where
from appliance.errors import ConfigError
from appliance.messages import Verdict
from appliance.store import Store
from calibration.limits import GOOD
from calibration.opinions import Opinions
from calibration.people import People

_HEAD = ("part_id", "split", "kind", "file", "word", "margin", "recipe", "bundle", "labelled_by")


def main(
    out: Annotated[Path, typer.Option(help="The folder to make; must not exist.")],
    config: Annotated[Path, typer.Option(help="The integrator's config.toml.")] = Path(
        "config.toml"
    ),
    recipe: Annotated[str, typer.Option(help="Parts of this recipe id alone, e.g. cell.")] = "",
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with part_id and kind (good, or a defect) instead of people.db."),
    ] = None,
    test_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share for the test.")] = 0.3,
    camera: Annotated[
        str,
        typer.Option(
            help="Of several cameras: whose pictures. A label is of the whole part: leave out in "
            "--labels what this camera cannot see."
        ),
    ] = "",
) -> None:
    """Labelled pictures as a data set for `inspectd train`.

    Only parts whose picture was archived can be exported: `[record] images = "all"` keeps good
    ones, too.
    """
    loaded = load_config(config)
    if camera not in loaded.cameras and (camera or len(loaded.cameras) > 1):
        raise ConfigError("--camera", f"one of {', '.join(loaded.cameras)}", repr(camera))
    if out.exists():
        raise ConfigError(out, "a folder that is not there yet", "an existing one")
    kinds = _from_csv(labels) if labels else _from_people(loaded)
    if not kinds:
        raise ConfigError("labels", "at least one labelled part", "none")
    store = Store(where(loaded), is_reader=True)
    try:
        counts = export(loaded, store, kinds, out, recipe, test_share, camera)
    finally:
        store.close()
    for name, count in sorted(counts.items()):
        sys.stdout.write(f"{name}: {count}\n")


def export(
    config: Config,
    store: Store,
    kinds: Mapping[int, tuple[str, str]],
    out: Path,
    recipe: str = "",
    test_share: float = 0.3,
    camera: str = "",
) -> Counter[str]:
    """Part id → (kind, who said so) as folders; how many went where.

    camera: of parts with several views, whose.

    The folder is there whole or not at all. "without a picture" and "without a row" are counted.
    """
    counts: Counter[str] = Counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as made:
        draft = Path(made) / "draft"
        draft.mkdir()
        with (draft / "parts.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(_HEAD)
            for part_id, (kind, by) in sorted(kinds.items()):
                row = store.part(part_id)
                if row is None:
                    counts["without a row"] += 1
                    continue
                if recipe and row.verdict.recipe.partition("/")[0] != recipe:
                    continue
                views = {view.camera: view for view in row.verdict.by_view()}
                verdict = views.get(camera, row.verdict)
                is_other = verdict.camera != row.verdict.camera
                path = view_path(row.image, verdict.camera) if is_other else row.image
                source = config.data_dir / path
                if not row.image or not source.is_file():
                    counts["without a picture"] += 1
                    continue
                split = "test" if share_of(part_id) < test_share else "train"
                target = draft / split / folder_of(kind) / f"{part_id}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                counts[f"{split}/{folder_of(kind)}"] += 1
                table.writerow(_line(verdict, split, kind, target.relative_to(draft), by))
        if not any("/" in name for name in counts):
            raise ConfigError("labels", "a labelled part with a picture", str(dict(counts)))
        draft.rename(out)
    out.chmod(0o755)
    return counts


def share_of(part_id: int) -> float:
    """A number in [0, 1) that belongs to a part."""
    digest = hashlib.sha256(f"split:{part_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / (1 << 32)


def folder_of(kind: str) -> str:
    """A kind as the name of a folder."""
    return re.sub(r"[^a-z0-9_-]+", "_", kind.strip().lower()) or "unnamed"


def _line(verdict: Verdict, split: str, kind: str, file: Path, by: str) -> tuple[object, ...]:
    return (
        verdict.part_id, split, kind, file.as_posix(), verdict.word.name, verdict.margin,
        verdict.recipe, verdict.bundle, by,
    )  # fmt: skip


def _from_people(config: Config) -> dict[int, tuple[str, str]]:
    if not (config.data_dir / "people.db").is_file():
        raise ConfigError(config.data_dir / "people.db", "labels, or --labels", "no such file")
    people = People(config, AuditJournal(config))
    try:
        found = Opinions(people).labels()
    finally:
        people.close()
    return {label.part_id: (label.kind, label.by) for label in found.values()}


def _from_csv(path: Path) -> dict[int, tuple[str, str]]:
    kinds: dict[int, tuple[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    kinds[int(row["part_id"])] = (row["kind"].strip() or GOOD, path.name)
                except (AttributeError, KeyError, TypeError, ValueError) as err:
                    expected = "the columns part_id and kind"
                    raise ConfigError(f"{path}: line {number}", expected, str(row)) from err
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(path, "a CSV file", str(err)) from err
    return kinds
