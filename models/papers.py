"""Published figures of SuperSimpleNet, to stand beside measured ones: data alone.

Mean of five runs, in percent. Sources: `paper_results/{icpr,jims}/results_avg_std.json` of the
authors' repository; the tables of arXiv 2408.03143 (icpr) and 2508.19060 (jims). The runs used
wide_resnet50_2 at 256x256 (KSDD2 640x232, SensumSODF 320x192 and 144x144).
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """One row of a paper; None where it gives no figure."""

    icpr: float | None = None
    """Image AUROC of the classification score, ICPR 2024."""
    jims: float | None = None
    """The same, JIMS 2025."""
    jims_map_max: float | None = None
    """Image AUROC of the map's maximum, JIMS 2025."""
    ap: float | None = None
    """Average precision of the images, JIMS 2025."""
    pixel_auroc: float | None = None
    aupro: float | None = None
    pixel_ap: float | None = None
    """Of the pixels, JIMS 2025."""


MVTEC = {
    "bottle": Published(100.0, 100.0, 100.0),
    "cable": Published(98.1, 97.5, 98.1),
    "capsule": Published(98.7, 99.1, 99.1),
    "carpet": Published(98.4, 98.0, 98.8),
    "grid": Published(99.3, 99.6, 99.7),
    "hazelnut": Published(99.8, 99.9, 100.0),
    "leather": Published(100.0, 100.0, 100.0),
    "metal_nut": Published(99.5, 99.4, 99.9),
    "pill": Published(98.1, 98.2, 97.8),
    "screw": Published(92.9, 92.7, 95.0),
    "tile": Published(99.7, 99.1, 99.9),
    "toothbrush": Published(92.2, 93.0, 91.5),
    "transistor": Published(99.9, 99.5, 99.6),
    "wood": Published(99.3, 99.1, 98.9),
    "zipper": Published(99.6, 99.8, 99.4),
    "mean": Published(98.4, 98.3, 98.5, 99.4, 97.6, 91.2, 49.6),
}

VISA = {
    "candle": Published(97.1, 97.1, 96.6),
    "capsules": Published(81.5, 81.2, 80.6),
    "cashew": Published(93.0, 94.2, 94.0),
    "chewinggum": Published(99.3, 99.5, 99.5),
    "fryum": Published(96.8, 97.3, 95.6),
    "macaroni1": Published(93.1, 94.5, 95.3),
    "macaroni2": Published(75.0, 75.8, 79.7),
    "pcb1": Published(96.9, 96.3, 96.7),
    "pcb2": Published(97.5, 96.4, 95.1),
    "pcb3": Published(94.4, 94.8, 94.7),
    "pcb4": Published(98.4, 98.4, 98.6),
    "pipe_fryum": Published(97.6, 98.1, 98.8),
    "mean": Published(93.4, 93.6, 93.8, 95.2, 98.3, 87.4, 35.2),
}

KSDD2 = {
    "unsupervised": Published(jims=79.4, jims_map_max=93.3, ap=55.8, pixel_ap=45.8),
    "weak": Published(jims=99.49, jims_map_max=96.3, ap=97.20, pixel_ap=47.6),
    "supervised": Published(99.5, 99.66, 99.3, 97.84, 99.4, 98.8, 81.3),
}

SENSUM = {
    "capsule": Published(97.5, 97.8, None, 93.1, 99.7, 96.4, 70.7),
    "softgel": Published(98.0, 98.2, None, 96.8, 99.0, 95.2, 73.7),
    "mean": Published(97.8, 97.98, None, 94.95, 99.4, 95.8, 72.2),
}

TABLES: dict[str, dict[str, Published]] = {
    "mvtec": MVTEC,
    "visa": VISA,
    "ksdd2": KSDD2,
    "sensum": SENSUM,
    "vad": {},  # neither paper of SuperSimpleNet measured VAD
}
"""Protocol → row → published figures."""
