"""Users, lock-out, labels and proposals: who may do what, and that all of it is in the journal."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.audit import AuditJournal
from appliance.config import Config
from appliance.config_camera import Camera
from appliance.errors import ConfigError, DeviceError
from calibration.opinions import NewBundle, Opinions, is_fresh
from calibration.people import LOCK_S, LogInError, People, Role, User
from calibration.sessions import Sessions

QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
SECRET = "correct horse battery"


class World:
    """One box with its people; time stands still until it is moved."""

    def __init__(self, root: Path) -> None:
        camera = Camera(name="top", kind="files", folder="x")
        self.config = Config(root=str(root), deadline_ms=200, camera=(camera,))
        self.now_ns = 1_790_000_000_000_000_000
        self.journal = AuditJournal(self.config)
        self.people = People(self.config, self.journal, lambda: self.now_ns, QUICK)
        self.opinions = Opinions(self.people, lambda: self.now_ns)
        self.eva = self.people.add("eva", Role.ENGINEER, SECRET, "root@shell")
        self.max = self.people.add("max", Role.ENGINEER, SECRET, "root@shell")
        self.ole = self.people.add("ole", Role.OPERATOR, SECRET, "root@shell")

    def told(self) -> list[tuple[str, str, str]]:
        return [(entry.who, entry.what, entry.subject) for entry in self.journal.entries()]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.people.close()


def test_the_right_password_lets_in_and_is_nowhere_to_be_read(world: World) -> None:
    assert world.people.log_in("eva", SECRET, "192.0.2.1") == world.eva
    assert world.told()[-1] == ("eva", "user.logged_in", "eva")
    for path in (world.people.path, world.journal.path):
        assert SECRET.encode() not in path.read_bytes()
    assert world.people.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("name", "password"), [("eva", "wrong password"), ("nobody", SECRET)])
def test_a_stranger_is_not_told_which_half_was_wrong(
    world: World, name: str, password: str
) -> None:
    with pytest.raises(LogInError, match=r"^wrong name or password$"):
        world.people.log_in(name, password)


def test_five_wrong_passwords_lock_for_five_minutes(world: World) -> None:
    for _ in range(5):
        with pytest.raises(LogInError, match="wrong name"):
            world.people.log_in("eva", "guess guess guess")
    with pytest.raises(LogInError, match="wait five minutes"):
        world.people.log_in("eva", SECRET)
    assert ("system", "user.locked", "eva") in world.told()
    assert world.people.user("eva") == world.eva._replace(is_locked=True)
    world.now_ns += (LOCK_S + 1) * 1_000_000_000
    assert world.people.log_in("eva", SECRET) == world.eva


def test_an_admin_unlocks_and_a_right_password_starts_the_count_afresh(world: World) -> None:
    for _ in range(4):
        with pytest.raises(LogInError):
            world.people.log_in("eva", "guess guess guess")
    world.people.log_in("eva", SECRET)
    for _ in range(5):
        with pytest.raises(LogInError):
            world.people.log_in("eva", "guess guess guess")
    world.people.change("eva", "root@shell", unlock=True)
    assert world.people.log_in("eva", SECRET) == world.eva


def test_a_disabled_user_stays_out_and_the_last_admin_stays_in(world: World) -> None:
    world.people.change("eva", "root@shell", is_enabled=False)
    with pytest.raises(LogInError):
        world.people.log_in("eva", SECRET)
    world.people.add("ada", Role.ADMIN, SECRET, "root@shell")
    with pytest.raises(ConfigError, match="at least one enabled admin"):
        world.people.change("ada", "ada", is_enabled=False)
    with pytest.raises(ConfigError, match="at least one enabled admin"):
        world.people.change("ada", "ada", role=Role.OPERATOR)
    world.people.add("bob", Role.ADMIN, SECRET, "ada")
    assert world.people.change("ada", "bob", role=Role.OPERATOR).role is Role.OPERATOR


@pytest.mark.parametrize(
    "change",
    [{"password": "another horse battery"}, {"role": Role.OPERATOR}, {"is_enabled": False}],
)
def test_a_changed_password_role_or_permission_ends_the_open_sessions(
    world: World, change: dict[str, Any]
) -> None:
    sessions = Sessions(world.people, lambda: 0.0)
    eva, max_ = sessions.open(world.people.log_in("eva", SECRET)), sessions.open(world.max)
    world.people.change("eva", "root@shell", unlock=True)
    assert sessions.user(eva) == world.eva
    changed = world.people.change("eva", "root@shell", **change)
    assert sessions.user(eva) is None
    assert sessions.user(max_) == world.max
    if changed.is_enabled:
        assert sessions.user(sessions.open(changed)) == changed


@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("", SECRET, "letters, digits"),
        ("<script>", SECRET, "letters, digits"),
        ("x" * 65, SECRET, "at most 64"),
        ("new", "short", "10 to 200 signs"),
        ("new", "", "10 to 200 signs"),
        ("new", "my name is new!", "without the user's name"),
        ("eva", SECRET, "a new name"),
    ],
)
def test_no_blank_default_or_careless_accounts(
    world: World, name: str, password: str, expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        world.people.add(name, Role.OPERATOR, password, "root@shell")
    assert len(world.people.users()) == 3


def test_a_change_that_cannot_be_journalled_is_not_made(world: World) -> None:
    world.journal.path.write_bytes(b"spoilt\n")
    with pytest.raises(ConfigError):
        world.people.change("eva", "root@shell", role=Role.ADMIN)
    assert world.people.user("eva") == world.eva


def test_a_foreign_database_is_refused(world: World) -> None:
    with world.people.transaction() as connection:
        connection.exec_driver_sql("PRAGMA user_version = 99")
    with pytest.raises(DeviceError, match="revision 1 or older, got 99"):
        People(world.config, world.journal, hasher=QUICK)


def test_the_newest_label_counts_and_every_change_is_journalled(world: World) -> None:
    world.opinions.label(7, "good", world.ole)
    world.opinions.label(8, " Scratch ", world.ole)
    world.opinions.label(8, "scratch", world.eva)
    world.opinions.label(7, "dent", world.eva)
    labels = world.opinions.labels()
    assert {part: label.kind for part, label in labels.items()} == {7: "dent", 8: "scratch"}
    assert (labels[7].by, labels[8].by) == ("eva", "ole"), "the same again is no new label"
    assert world.opinions.labels([8, 9]) == {8: labels[8]}
    assert world.opinions.kinds() == ("dent", "scratch")
    written = [entry for entry in world.journal.entries() if entry.what == "part.labelled"]
    assert [(e.subject, e.old, e.new) for e in written] == [
        ("7", None, "good"),
        ("8", None, "scratch"),
        ("7", "good", "dent"),
    ]


@pytest.mark.parametrize("kind", ["", "<b>", "a" * 65, "../x"])
def test_a_label_is_a_plain_word(world: World, kind: str) -> None:
    with pytest.raises(ConfigError):
        world.opinions.label(7, kind, world.ole)
    with pytest.raises(ConfigError):
        world.opinions.label(0, "good", world.ole)


def test_half_of_the_parts_verify_whatever_anybody_says_of_them() -> None:
    share = sum(is_fresh("cell", str(part)) for part in range(1, 4001)) / 4000
    assert 0.47 < share < 0.53
    assert is_fresh("cell", "5") == is_fresh("cell", "5")


def test_a_proposal_is_verified_once_and_approved_by_somebody_else(world: World) -> None:
    asked = world.opinions.propose("cell", 3, (1.0, 2.0), "150 plates", {"n": 75}, world.eva)
    assert asked.state == "open" and asked.evidence == {"n": 75}
    assert world.opinions.looks("cell") == 0
    verified = world.opinions.verify(asked.id, {"escapes": 0}, world.eva)
    assert verified.verified == {"escapes": 0} and world.opinions.looks("cell") == 1
    with pytest.raises(ConfigError, match="one opening per proposal"):
        world.opinions.verify(asked.id, {"escapes": 0}, world.max)
    with pytest.raises(ConfigError, match="another person than eva"):
        world.opinions.decide(asked.id, "approved", "looks fine", world.eva)
    with pytest.raises(ConfigError, match="engineer or above, got operator"):
        world.opinions.decide(asked.id, "approved", "looks fine", world.ole)
    with pytest.raises(ConfigError, match="at least 8 letters"):
        world.opinions.decide(asked.id, "approved", "ok", world.max)
    with pytest.raises(ConfigError, match="at most 500 letters, got 501 of them"):
        world.opinions.decide(asked.id, "approved", "x" * 501, world.max)
    done = world.opinions.decide(asked.id, "approved", "looks fine", world.max)
    assert (done.state, done.decided_by) == ("approved", "max")
    with pytest.raises(ConfigError, match="one that was approved"):
        world.opinions.decide(asked.id, "rejected", "changed my mind", world.max)


def test_who_had_a_bundle_made_does_not_approve_it(world: World) -> None:
    bundle = NewBundle("ab" * 32, "cell-2", "segad", "refit-1")
    asked = world.opinions.propose(
        "cell", 3, (1.0, 2.0), "new regions", {"made_by": "max"}, world.eva, bundle=bundle
    )
    assert asked.made_by == "max"
    for by in (world.eva, world.max):
        with pytest.raises(ConfigError, match=f"another person than eva or max, got {by.name}"):
            world.opinions.decide(asked.id, "approved", "looks fine", by)
    third = world.people.add("ida", Role.ENGINEER, SECRET, "root@shell")
    assert world.opinions.check_decision(asked.id, "looks fine", third) == asked
    done = world.opinions.decide(asked.id, "rejected", "a worse one", world.max)
    assert (done.state, done.decided_by) == ("rejected", "max")


def test_two_people_cannot_propose_at_once(world: World) -> None:
    first = world.opinions.propose("cell", 3, (1.0, 2.0), "150 plates", {}, world.eva)
    with pytest.raises(ConfigError, match="none that is open for cell"):
        world.opinions.propose("cell", 3, (1.0, 3.0), "other idea", {}, world.max)
    world.opinions.decide(first.id, "rejected", "too narrow", world.max)
    assert ("max", "limits.rejected", f"proposal {first.id}") in world.told()
    world.opinions.propose("cell", 3, (1.0, 3.0), "other idea", {}, world.max)
    assert [one.state for one in world.opinions.proposals("cell")] == ["open", "rejected"]


def test_what_cannot_be_proposed(world: World) -> None:
    for limits in ((2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ConfigError, match="finite T1 <= T2"):
            world.opinions.propose("cell", 3, limits, "150 plates", {}, world.eva)
    with pytest.raises(ConfigError, match="engineer or above"):
        world.opinions.propose("cell", 3, (1.0, 2.0), "150 plates", {}, world.ole)
    with pytest.raises(ConfigError, match="a known number"):
        world.opinions.proposal(99)


def users(root: Path, *arguments: str, typed: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(
        app, ["users", *arguments, "--config", str(root / "config.toml")], input=typed
    )
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def test_users_by_command(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "x"\n'
    )
    listed = CliRunner().invoke(app, ["users", "list", "--config", str(tmp_path / "config.toml")])
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "no user yet: inspectd users add" in listed.stderr
    add = ("add", "ada", "--role", "admin", "--password-stdin")
    assert users(tmp_path, *add, typed=f"{SECRET}\n") == (0, "ada: admin\n")
    code, said = users(tmp_path, "add", "ole", "--role", "operator", typed=f"{SECRET}\n{SECRET}\n")
    assert code == 0 and SECRET not in said
    assert users(tmp_path, "change", "ole", "--role", "technician", "--disable") == (
        0,
        "ole: technician, disabled\n",
    )
    assert users(tmp_path, "list") == (0, "ada: admin\nole: technician, disabled\n")
    with pytest.raises(ConfigError, match="--role: expected one of operator"):
        users(tmp_path, "add", "x", "--role", "king", "--password-stdin", typed=SECRET)


def test_a_user_is_a_value() -> None:
    assert User("a", Role.ADMIN).role > Role.ENGINEER > Role.TECHNICIAN > Role.OPERATOR
