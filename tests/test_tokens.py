"""Tokens and the pace of programs, by a clock that is moved."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.audit import AuditJournal
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ConfigError
from calibration.api import BURST, PER_S, Pace
from calibration.people import LOCK_AFTER, LOCK_S, People, Role
from calibration.tokens import MOST, TokenError, Tokens, TooManyTries
from tests.test_people import QUICK, SECRET

DAY_NS = 86_400_000_000_000


class World:
    def __init__(self, root: Path) -> None:
        camera = Camera(name="top", kind="files", folder="x")
        self.config = Config(root=str(root), deadline_ms=200, camera=(camera,))
        self.now_ns = 1_790_000_000_000_000_000
        self.people = People(self.config, AuditJournal(self.config), lambda: self.now_ns, QUICK)
        self.tokens = Tokens(self.people, lambda: self.now_ns)
        self.ada = self.people.add("ada", Role.ADMIN, SECRET, "root@shell")
        self.eva = self.people.add("eva", Role.ENGINEER, SECRET, "root@shell")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.people.close()


def test_a_token_is_kept_as_its_hash_and_follows_its_user(world: World) -> None:
    text, token = world.tokens.make("press", 30, world.eva)
    assert world.tokens.open(text, "a") == (world.eva, token)
    secret = text.rpartition("_")[2]
    assert len(secret) == 64 and text == f"insp_{token.id}_{secret}"
    stored = (
        world.people.path.read_bytes() + world.people.path.with_name("people.db-wal").read_bytes()
    )
    assert secret.encode() not in stored
    assert hashlib.sha256(secret.encode()).hexdigest().encode() in stored
    world.people.change("eva", "ada", role=Role.OPERATOR)
    assert world.tokens.open(text, "a")[0].role is Role.OPERATOR
    world.people.change("eva", "ada", is_enabled=False)
    with pytest.raises(TokenError, match="ended"):
        world.tokens.open(text, "a")


@pytest.mark.parametrize(
    "change",
    [{"password": "another long phrase"}, {"is_enabled": False}],
    ids=lambda one: str(*one),
)
def test_tokens_end_with_the_password_and_with_being_disabled(
    world: World, change: dict[str, Any]
) -> None:
    texts = [world.tokens.make(name, 30, world.eva) for name in ("press", "oven")]
    gone, _ = world.tokens.make("gone", 1, world.eva)
    other, _ = world.tokens.make("lab", 30, world.ada)
    world.now_ns += DAY_NS
    world.people.change("eva", "ada", unlock=True)
    world.tokens.open(texts[0][0], "a")
    world.people.change("eva", "ada", **change)
    world.people.change("eva", "ada", is_enabled=True)
    for text in (texts[0][0], texts[1][0], gone):
        with pytest.raises(TokenError, match="ended"):
            world.tokens.open(text, "a")
    world.tokens.open(other, "a")
    told = [entry for entry in world.people.journal.entries() if entry.what == "token.revoked"]
    assert {(entry.who, entry.subject) for entry in told} == {
        ("ada", f"eva {token.id}") for _, token in texts
    }
    kept = {token.name: token.revoked_by for token in world.tokens.tokens("eva")}
    assert kept == {"press": "ada", "oven": "ada", "gone": ""}


def test_a_token_ends_at_its_date_and_by_its_user_or_an_admin(world: World) -> None:
    text, token = world.tokens.make("press", 30, world.eva)
    world.now_ns += 30 * DAY_NS - 1
    world.tokens.open(text, "a")
    world.now_ns += 1
    with pytest.raises(TokenError, match="ended"):
        world.tokens.open(text, "a")
    text, token = world.tokens.make("press", 30, world.eva)
    other = world.people.add("max", Role.ENGINEER, SECRET, "root@shell")
    with pytest.raises(ConfigError, match="one of your own"):
        world.tokens.revoke(token.id, other)
    world.tokens.revoke(token.id, world.ada)
    world.tokens.revoke(token.id, world.ada)
    told = [entry for entry in world.people.journal.entries() if entry.what == "token.revoked"]
    assert [(entry.who, entry.subject) for entry in told] == [("ada", f"eva {token.id}")]
    with pytest.raises(TokenError, match="ended"):
        world.tokens.open(text, "a")


@pytest.mark.parametrize(
    ("name", "days"), [("", 9), ("x" * 65, 9), ("a\nb", 9), ("a", 0), ("a", 367)]
)
def test_tokens_that_cannot_be_are_refused(world: World, name: str, days: int) -> None:
    with pytest.raises(ConfigError, match="token: expected"):
        world.tokens.make(name, days, world.eva)


def test_nobody_has_more_tokens_than_anybody_can_watch(world: World) -> None:
    made = [world.tokens.make(f"n{number}", 9, world.eva)[1] for number in range(MOST)]
    with pytest.raises(ConfigError, match="at most 20 of one user"):
        world.tokens.make("one more", 9, world.eva)
    world.tokens.revoke(made[0].id, world.eva)
    world.tokens.make("one more", 9, world.eva)


def test_five_wrong_ones_lock_out_their_address_and_nobody_else(world: World) -> None:
    text, token = world.tokens.make("press", 30, world.eva)
    wrong = f"insp_{token.id}_wrong"
    for _ in range(LOCK_AFTER):
        with pytest.raises(TokenError, match="unknown token"):
            world.tokens.open(wrong, "evil")
    for shown in (wrong, text):
        with pytest.raises(TooManyTries):
            world.tokens.open(shown, "evil")
    assert world.tokens.open(text, "press")[0] == world.eva
    told = [entry for entry in world.people.journal.entries() if entry.what == "token.locked"]
    assert [(entry.subject, entry.source) for entry in told] == [(token.id, "evil")]
    world.now_ns += LOCK_S * 1_000_000_000
    assert world.tokens.open(text, "evil")[0] == world.eva


@pytest.mark.parametrize(
    "text", ["", "_", "__", "insp", "insp_", "insp_ä_ö", "x" * 5000, "\0", "\ud800"]
)
def test_what_is_no_token_is_unknown(world: World, text: str) -> None:
    with pytest.raises(TokenError):
        world.tokens.open(text, "a")


def test_the_pace_is_that_of_one_token() -> None:
    now_s = 0.0
    pace = Pace(lambda: now_s)
    assert all(pace.takes("a") for _ in range(int(BURST)))
    assert not pace.takes("a") and pace.takes("b")
    now_s = 1.0
    assert sum(pace.takes("a") for _ in range(100)) == int(PER_S)
