"""Losses of SuperSimpleNet: truncated L1 and focal on the map, focal on the score.

Everything works on raw logits; targets are 0 (normal) and 1 (anomalous), float32.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

MARGIN = 0.5
"""Logits beyond this on the right side cost nothing in the truncated L1."""
GAMMA = 4.0


def truncated_l1(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean of max(0, s + 0.5) over normal pixels plus mean of max(0, 0.5 − s) over anomalous.

    Both any equal shape. Each side is averaged over its own pixels; an absent side adds 0.
    """
    anomalous = mask > 0.5
    cost = functional.relu(MARGIN + logits.where(~anomalous, -logits))
    total = cost.sum() * 0  # keeps the graph when a side is absent
    for side in (anomalous, ~anomalous):
        pixels = side.sum()
        total = total + (cost * side).sum() / pixels.clamp(min=1)
    return total


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss, gamma 4, no class weights, mean over all elements; equal shapes."""
    # p_t = sigmoid(z), z = ±logit, so that (1 − p_t)^γ is sigmoid(−z)^γ: no 1 − p cancellation.
    signed = logits * (2 * target - 1)
    return (functional.sigmoid(-signed) ** GAMMA * functional.softplus(-signed)).mean()


def segmentation_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Truncated L1 plus focal on the map, (N, 1, H, W) each."""
    return truncated_l1(logits, mask) + focal(logits, mask)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal on the image logit, (N,) each."""
    return focal(logits, labels)
