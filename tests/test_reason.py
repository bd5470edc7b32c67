"""A reason is a sentence: neither a word nor a book, whoever gives it."""

import pytest

from appliance.errors import ConfigError
from calibration.reason import LEAST, MOST, checked


def test_what_is_kept_has_no_blanks_around_it() -> None:
    assert checked("  150 plates of week 12\n") == "150 plates of week 12"
    assert checked("x" * LEAST) == "x" * LEAST
    assert checked(" " + "x" * MOST) == "x" * MOST


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("", "reason: expected at least 8 letters, got ''"),
        ("  because  ", "reason: expected at least 8 letters, got 'because'"),
        ("x" * 1_000_000, "reason: expected at most 500 letters, got 1000000 of them"),
    ],
)
def test_what_is_none_is_refused_in_words(reason: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked(reason)
    assert str(refused.value) == told
