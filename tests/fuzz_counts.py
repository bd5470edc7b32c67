"""What is counted while somebody sends noise."""

from dataclasses import dataclass

PATIENCE_S = 30.0
"""For the answer to a good request, also on a machine that does other things."""
CHECK_EVERY = 200
"""Inputs between two good requests, each of which must be answered."""


@dataclass
class Counts:
    """What was sent, and what came of it."""

    inputs: int = 0
    answers: int = 0
    """Inputs after which at least one byte came back."""
    good_requests: int = 0
    good_answers: int = 0
