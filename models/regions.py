"""`inspectd segments`: a first segment map from aligned good images, and pictures of segment maps.

A segment map is a picture of labels at network size, one number per region and 255 for what no
statistic shall see, with the regions' names and colours beside it. `propose` makes one for a person
to correct in a paint program; `read_segments` takes it back, painted in labels or in colours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import typer

from appliance.bundle import InputContract, load_bundle, smallest_defect_px
from appliance.errors import ConfigError
from appliance.segments import IGNORED, SegmentIndex, column_names
from models import bundle_files, progress, segad
from models.dataset import open_dataset, read_image

Labels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

LEAST_SHARE = 0.01
"""Of all pixels, in one proposed region."""

IGNORED_COLOUR = (0, 0, 0)
"""What is painted black in a picture of colours is ignored."""

_CLUSTERS_PER_REGION = 2
_SMOOTH_PX = 3.0
_SHOWN_PX = 512


class Colour(msgspec.Struct, forbid_unknown_fields=True):
    """One element of `segments.json`, in the order of the labels."""

    name: str
    colour: str
    """"#rrggbb"."""

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue. Raises ConfigError."""
        digits = self.colour.removeprefix("#")
        try:
            red, green, blue = bytes.fromhex(digits)
        except ValueError as err:
            raise ConfigError("segments.json", 'a colour like "#e6194b"', self.colour) from err
        return red, green, blue


class GoodLook(msgspec.Struct, frozen=True):
    """What good parts look like, pixel by pixel, at network size."""

    mean: Floats
    """(H, W, 3) RGB, 0 to 255."""
    spread: Floats
    """(H, W) standard deviation of the brightness over the images."""


def look_of(inputs: Iterable[Floats]) -> GoodLook:
    """Mean and spread of network inputs (3, H, W), RGB 0 to 255, of aligned good images."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for image in inputs:
        grey = image.mean(axis=0)
        count, total, squares = count + 1, total + image, squares + grey.astype(np.float64) ** 2
    if not count:
        raise ConfigError("images", "good images", "none")
    mean = np.asarray(total / count)
    variance = np.maximum(squares / count - mean.mean(axis=0) ** 2, 0)
    return GoodLook(
        mean.transpose(1, 2, 0).astype(np.float32), np.sqrt(variance).astype(np.float32)
    )


def propose(
    look: GoodLook, levels: Floats | None, regions: int, seed: int = 0
) -> tuple[Labels, tuple[str, ...]]:
    """At most `regions` connected regions of like appearance and like normal score, and names.

    levels: (n, H, W) what the anomaly maps of good parts are like (mean, spread), or None. Pixels
    are clustered, the clusters' connected pieces become regions, and the two neighbours that
    differ least (Ward's distance) are joined until there are few and none is tiny.
    """
    if not 1 <= regions < IGNORED:
        raise ConfigError("regions", f"1 to {IGNORED - 1}", str(regions))
    lab = cv2.cvtColor(look.mean / 255, cv2.COLOR_RGB2LAB)
    layers = [*np.moveaxis(lab, 2, 0), np.log1p(look.spread), *([] if levels is None else levels)]
    smooth = [_standardised(cv2.GaussianBlur(layer, (0, 0), _SMOOTH_PX)) for layer in layers]
    pixels = np.stack(smooth, axis=-1).astype(np.float32)  # [H, W, n]
    flat = pixels.reshape(-1, pixels.shape[-1])
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.1)
    clusters: Any = cv2.kmeans(
        flat, min(_CLUSTERS_PER_REGION * regions, len(flat)), np.array([]), criteria, 3,
        cv2.KMEANS_PP_CENTERS,
    )[1]  # fmt: skip
    shape = pixels.shape[:2]
    tidy = cv2.medianBlur(clusters.reshape(shape).astype(np.uint8), 7 if min(shape) > 32 else 3)
    labels = _joined(_pieces(np.asarray(tidy, np.uint8)), pixels, regions)
    return labels, _names(labels, lab[:, :, 0])


def _standardised(layer: npt.NDArray[Any]) -> npt.NDArray[Any]:
    spread = float(layer.std())
    return (layer - layer.mean()) / spread if spread > 1e-6 else layer * 0


def _pieces(clusters: Labels) -> npt.NDArray[np.int32]:
    """Connected pieces of all clusters, numbered from 0."""
    pieces, count = np.zeros(clusters.shape, np.int32), 0
    for cluster in np.unique(clusters):
        found, numbered = cv2.connectedComponents(
            (clusters == cluster).astype(np.uint8), connectivity=4
        )
        inside = numbered > 0
        pieces[inside] = numbered[inside] - 1 + count
        count += found - 1
    return pieces


def _joined(pieces: npt.NDArray[np.int32], pixels: Floats, regions: int) -> Labels:
    """Neighbours joined, the two that differ least first, until at most `regions` are left."""
    count = int(pieces.max()) + 1
    flat = pieces.reshape(-1)
    size = np.bincount(flat, minlength=count).astype(np.float64)
    columns = pixels.reshape(len(flat), -1)
    total = np.stack([np.bincount(flat, column, count) for column in columns.T], axis=1)
    touching: dict[int, set[int]] = {piece: set() for piece in range(count)}
    for one, other in ((pieces[:, 1:], pieces[:, :-1]), (pieces[1:], pieces[:-1])):
        for a, b in np.unique(np.stack([one[one != other], other[one != other]], axis=1), axis=0):
            touching[int(a)].add(int(b))
            touching[int(b)].add(int(a))
    into = list(range(count))
    least = LEAST_SHARE * len(flat)

    def cost(a: int, b: int) -> float:
        apart = total[a] / size[a] - total[b] / size[b]
        return float(size[a] * size[b] / (size[a] + size[b]) * (apart**2).sum())

    while len(touching) > 1:
        tiny = [piece for piece in touching if size[piece] < least]
        if not tiny and len(touching) <= regions:
            break
        candidates = [min(tiny, key=lambda piece: size[piece])] if tiny else list(touching)
        _, a, b = min((cost(a, b), a, b) for a in candidates for b in touching[a])
        size[a] += size[b]
        total[a] += total[b]
        into[b] = a
        for neighbour in touching.pop(b):
            touching[neighbour].discard(b)
            if neighbour != a:
                touching[neighbour].add(a)
                touching[a].add(neighbour)

    def root(piece: int) -> int:
        while into[piece] != piece:
            piece = into[piece]
        return piece

    number = {piece: label for label, piece in enumerate(sorted(touching))}
    of_piece = np.array([number[root(piece)] for piece in range(count)], np.uint8)
    return of_piece[pieces]


def _names(labels: Labels, brightness: npt.NDArray[Any]) -> tuple[str, ...]:
    """ "dark top left": how bright, and where the middle of the region lies; each name once."""
    count = int(labels.max()) + 1
    if count == 1:
        return ("whole part",)
    tones = np.array([float(brightness[labels == label].mean()) for label in range(count)])
    low, high = float(tones.min()), float(tones.max())
    names: list[str] = []
    for label in range(count):
        rows, columns = np.nonzero(labels == label)
        share = (tones[label] - low) / (high - low + 1e-6)
        tone = ("dark", "grey", "bright")[min(2, int(3 * share))]
        row = int(np.mean(rows) * 3 // labels.shape[0])
        column = int(np.mean(columns) * 3 // labels.shape[1])
        edges = sum(
            bool(touches)
            for touches in (
                rows.min() == 0,
                columns.min() == 0,
                rows.max() == labels.shape[0] - 1,
                columns.max() == labels.shape[1] - 1,
            )
        )
        where = "rim" if edges >= 3 and (row, column) == (1, 1) else _place(row, column)
        name = f"{tone} {where}"
        same = sum(other == name or other.startswith(f"{name} ") for other in names)
        names.append(f"{name} {same + 1}" if same else name)
    return tuple(names)


def _place(row: int, column: int) -> str:
    if (row, column) == (1, 1):
        return "centre"
    words = (("top", "", "bottom")[row], ("left", "", "right")[column])
    return " ".join(word for word in words if word)


def read_segments(path: Path, size: tuple[int, int]) -> tuple[Labels, tuple[str, ...]]:
    """A segment map (H, W) and its names, from a PNG and the JSON of the same name beside it.

    The PNG is one channel of labels, or three of the JSON's colours, black for ignored. Raises
    ConfigError on another size, on a label without a name and on a colour that is none of them.
    """
    image = read_image(path)
    listed = path.with_name("segments.json") if path.name == "paint.png" else path
    listed = listed.with_suffix(".json")
    try:
        colours = msgspec.json.decode(listed.read_bytes(), type=list[Colour])
    except OSError as err:
        raise ConfigError(listed, "names and colours of the regions", err.strerror or "") from err
    except msgspec.DecodeError as err:
        raise ConfigError(listed, '[{"name": …, "colour": "#rrggbb"}, …]', str(err)) from err
    if image.shape[:2] != size:
        got = f"{image.shape[1]}x{image.shape[0]}"
        raise ConfigError(path, f"{size[1]}x{size[0]} pixels, as the network sees", got)
    labels = image if image.ndim == 2 else _from_colours(image, [c.rgb for c in colours], path)
    names = tuple(colour.name for colour in colours)
    column_names(names, ("any",))
    SegmentIndex(labels, len(names))
    return labels, names


def _from_colours(image: Labels, colours: Sequence[tuple[int, int, int]], path: Path) -> Labels:
    labels = np.full(image.shape[:2], IGNORED, np.uint8)
    known = (image == IGNORED_COLOUR).all(axis=2)
    for label, colour in enumerate(colours):
        here = (image == colour).all(axis=2)
        labels[here], known = label, known | here
    if not known.all():
        y, x = (int(places[0]) for places in np.nonzero(~known))
        got = "#{:02x}{:02x}{:02x}".format(*image[y, x])
        raise ConfigError(path, "the colours of its JSON, or black for ignored",
                          f"{got} at x {x}, y {y}; paint without smooth edges")  # fmt: skip
    return labels


def paint(labels: Labels, names: Sequence[str]) -> Labels:
    """(H, W, 3) RGB: each region in its colour, ignored pixels black."""
    colours = [Colour(**entry).rgb for entry in segad.segment_colours(names)]
    table = np.full((256, 3), IGNORED_COLOUR, np.uint8)
    table[: len(colours)] = colours
    return table[labels]


def over(labels: Labels, names: Sequence[str], image: Labels) -> Labels:
    """The segment map over a picture (H, W, 3) RGB, enlarged, with the regions' names in it."""
    factor = max(1, round(_SHOWN_PX / max(labels.shape)))
    size = (labels.shape[1] * factor, labels.shape[0] * factor)
    big = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    below = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    shown = cv2.addWeighted(below, 0.65, paint(np.asarray(big, np.uint8), names), 0.35, 0)
    for label, name in enumerate(names):
        inside = (big == label).astype(np.uint8)
        if inside.any():
            # The point farthest from the region's border: a centroid may lie in another region.
            depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)
            y, x = np.unravel_index(int(depth.argmax()), depth.shape)
            place = (max(2, int(x) - 4 * len(name)), int(y))
            for colour, offset in (((0, 0, 0), 1), ((255, 255, 255), 0)):
                at = (place[0] + offset, place[1] + offset)
                cv2.putText(shown, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1)
    return np.asarray(shown, np.uint8)


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Segment maps: propose one, show one.",
)


@app.command("propose")
def propose_command(
    data: Annotated[str, typer.Argument(help="Folder of labelled images, or the word elpv.")],
    out: Annotated[Path, typer.Option(help="Directory to write; must not exist.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Take its network's normal score level into account.")
    ] = None,
    regions: Annotated[int, typer.Option(min=1, max=32, help="At most so many.")] = 6,
    size: Annotated[str, typer.Option(help="Network input without --bundle.")] = "256x256",
    seed: Annotated[int, typer.Option(help="Of the split and of the clusters.")] = 0,
) -> None:
    """A first segment map from aligned good images, for a person to correct.

    Writes segments.png (labels), segments.json (names and colours), paint.png (the same map in
    colours, for a paint program) and over.png (the map over the mean good image).
    """
    from models.evaluate import scorer_of
    from models.export import Preprocessor

    if out.exists():
        raise ConfigError(out, "a directory that is not there yet", "an existing one")
    dataset = open_dataset(data, seed)
    loaded = None if bundle is None else load_bundle(bundle)
    contract = _contract(size, dataset.source) if loaded is None else loaded.manifest.input
    preprocess = Preprocessor(contract)
    good = (*dataset.network_good, *dataset.limits_good)
    with progress.shown() as report:

        def inputs() -> Iterable[Floats]:
            for number, sample in enumerate(good):
                report("looking", 0.5 * number / len(good))
                yield preprocess(dataset.pixels([sample]))[0]

        look = look_of(inputs())
        levels = None
        if loaded is not None:
            scorer = scorer_of(loaded)
            maps: list[Floats] = []
            for number, sample in enumerate(dataset.limits_good):
                maps.append(scorer.answer(dataset.pixels([sample])[0])[0][0])
                report("scoring", 0.5 + 0.5 * number / len(dataset.limits_good))
            levels = np.stack([np.mean(maps, axis=0), np.std(maps, axis=0)])
    labels, names = propose(look, levels, regions, seed)
    out.mkdir(parents=True)
    bundle_files.write_segments(out, labels, names)
    bundle_files.write_png(out / "paint.png", paint(labels, names))
    mean = np.asarray(look.mean.round(), np.uint8)
    bundle_files.write_png(out / "over.png", over(labels, names, mean))
    for label, name in enumerate(names):
        sys.stdout.write(f"{label:3}  {name:20} {(labels == label).mean():6.1%}\n")
    sys.stdout.write(f"{out}: correct paint.png, then `inspectd segad … --segments paint.png`\n")


@app.command("show")
def show_command(
    where: Annotated[Path, typer.Argument(help="A bundle, or a directory from `propose`.")],
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    image: Annotated[
        Path | None, typer.Option(help="Picture below; default: the bundle's first golden frame.")
    ] = None,
) -> None:
    """A picture of a segment map over a part, with the regions' names and shares."""
    path = where / "segments.png"
    labels = read_image(path)
    labels, names = read_segments(path, (labels.shape[0], labels.shape[1]))
    if image is None and (where / "manifest.json").exists():
        golden = load_bundle(where).manifest.golden
        image = where / golden[0].image if golden else None
    below: Labels = np.full((*labels.shape, 3), 128, np.uint8)
    if image is not None:
        picture = read_image(image)
        colour = cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if picture.ndim == 2 else picture
        resized = cv2.resize(colour, labels.shape[::-1], interpolation=cv2.INTER_AREA)
        below = np.asarray(resized, np.uint8)
    bundle_files.write_png(out, over(labels, names, below))
    for label, name in enumerate(names):
        sys.stdout.write(f"{label:3}  {name:20} {(labels == label).mean():6.1%}\n")
    sys.stdout.write(f"{IGNORED:3}  {'ignored':20} {(labels == IGNORED).mean():6.1%}\n")


def _contract(size: str, source: tuple[int, int, int]) -> InputContract:
    height, sign, width = size.partition("x")
    if not (sign and height.isdecimal() and width.isdecimal()):
        raise ConfigError("--size", "HEIGHTxWIDTH such as 256x256", repr(size))
    return InputContract(
        height_px=int(height),
        width_px=int(width),
        source_height_px=source[0],
        source_width_px=source[1],
        channels=3 if source[2] == 3 else 1,
        smallest_defect_px=smallest_defect_px((int(height), int(width)), (source[0], source[1])),
    )
