"""How well scores separate bad from good: AUROC, average precision, false alarms at 95 % recall.

Scores are raw margins, higher is worse; labels are 0 (good) and 1 (bad).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from appliance.errors import ConfigError


def image_metrics(labels: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, float]:
    """`auroc`, `ap` and `fpr95` (share of good images at or above the bad scores' 5 % quantile).

    Both (N,). Raises ConfigError unless both classes are present and every score is finite.
    """
    truth, values = np.asarray(labels), np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise ConfigError("scores", "finite margins", f"{(~np.isfinite(values)).sum()} others")
    bad, good = values[truth == 1], values[truth == 0]
    if not bad.size or not good.size:
        raise ConfigError("labels", "good and bad images", f"{good.size} good, {bad.size} bad")
    return {
        "auroc": float(roc_auc_score(truth, values)),
        "ap": float(average_precision_score(truth, values)),
        "fpr95": float((good >= np.quantile(bad, 0.05)).mean()),
    }
