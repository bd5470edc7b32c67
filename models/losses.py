"""Losses of SuperSimpleNet: truncated L1 and focal on the map, focal on the score.

Everything works on raw logits; targets are 0 (normal) and 1 (anomalous), float32.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

MARGIN = 0.5
"""Logits beyond this on the right side cost nothing in the truncated L1."""
GAMMA = 4.0


def truncated_l1(logits: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of max(0, s + 0.5) over normal pixels plus mean of max(0, 0.5 − s) over anomalous.

    All of any equal shape. Each side is averaged over its own pixels; an absent side adds 0.
    weights multiply the cost of a pixel; the mean still divides by the number of pixels.
    """
    anomalous = mask > 0.5
    cost = functional.relu(MARGIN + logits.where(~anomalous, -logits))
    if weights is not None:
        cost = cost * weights
    total = cost.sum() * 0  # keeps the graph when a side is absent
    for side in (anomalous, ~anomalous):
        pixels = side.sum()
        total = total + (cost * side).sum() / pixels.clamp(min=1)
    return total


def focal(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Focal loss, gamma 4, no class weights, mean over all elements; equal shapes, not empty."""
    # p_t = sigmoid(z), z = ±logit, so that (1 − p_t)^γ is sigmoid(−z)^γ: no 1 − p cancellation.
    signed = logits * (2 * target - 1)
    cost = functional.sigmoid(-signed) ** GAMMA * functional.softplus(-signed)
    return (cost if weights is None else cost * weights).mean()


def segmentation_loss(logits: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Truncated L1 plus focal on the map, (N, 1, H, W) each; 0 for no images."""
    if not len(logits):
        return logits.sum()
    return truncated_l1(logits, mask, weights) + focal(logits, mask, weights)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal on the image logit, (N,) each."""
    return focal(logits, labels)
