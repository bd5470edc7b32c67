"""Which recipe is in force: asked, prepared, swapped, refused, timed out, asked again."""

import pytest

from appliance.codes import CommandError, OfflineReason
from appliance.messages import Health, Prepare, Prepared, Refused, Swap
from appliance.setups import Setups
from tests.line_plans import loaded

S = 1_000_000_000
CAMERA, INFER = "camera:top", "infer:0"
OLD, NEW = loaded("cell"), loaded("other")


class Office:
    """Setups with two peers that answer only when a test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []
        self.answers: list[tuple[CommandError, str]] = []
        self.deaf: set[str] = set()
        self.setups = Setups((CAMERA, INFER), self._send)
        self.setups.current = OLD
        for label in (CAMERA, INFER):
            self.heard(label, OLD.setup_hash)
        self.sent.clear()

    def _send(self, label: str, message: Prepare | Swap) -> bool:
        if label in self.deaf:
            return False
        self.sent.append((type(message).__name__, label, message.setup_hash))
        return True

    def heard(self, label: str, setup: str, pid: int = 1, now: int = 0, life: int = 0) -> bool:
        health = Health(process=label, pid=pid, life=life, is_serving=True, setup_hash=setup)
        return self.setups.heard(health, now)

    def begin(self) -> None:
        self.setups.begin(NEW, 0, lambda code, detail: self.answers.append((code, detail)))

    def prepared(self, label: str, setup: str = NEW.setup_hash) -> None:
        self.setups.prepared(Prepared(process=label, setup_hash=setup))

    def refused(self, label: str, setup: str = NEW.setup_hash) -> None:
        self.setups.refused(
            Refused(
                process=label,
                setup_hash=setup,
                where="engine.plan",
                expected="this GPU",
                got="another",
                offline=OfflineReason.PASSPORT,
            )
        )

    def to(self, kind: str, setup: str = NEW.setup_hash) -> list[str]:
        """Who was sent such a message."""
        return sorted(label for k, label, s in self.sent if (k, s) == (kind, setup))


@pytest.fixture
def office() -> Office:
    return Office()


def test_both_prepare_then_both_swap(office: Office) -> None:
    office.begin()
    assert office.setups.is_changing
    assert office.setups.offline() == OfflineReason.RECIPE_CHANGING
    office.setups.tick(1, open_parts=1)
    assert office.sent == []
    office.setups.tick(2, open_parts=0)
    assert office.to("Prepare") == [CAMERA, INFER]
    office.prepared(CAMERA)
    assert (office.setups.current, office.to("Swap")) == (OLD, [])
    office.prepared(INFER)
    assert office.setups.current is NEW
    assert office.to("Swap") == [CAMERA, INFER]
    assert office.answers == [(CommandError.DONE, "")]
    assert not office.setups.is_changing


def test_limits_alone_need_nobody(office: Office) -> None:
    other = loaded("cell", t1=0.0, version=2)
    office.setups.begin(other, 0, lambda code, detail: office.answers.append((code, detail)))
    assert office.setups.current is other
    assert (office.sent, office.answers) == ([], [(CommandError.DONE, "")])


def test_a_refusal_keeps_the_old_one_and_names_why(office: Office) -> None:
    office.begin()
    office.setups.tick(1, 0)
    office.prepared(CAMERA)
    office.refused(INFER)
    assert office.setups.current is OLD
    assert office.to("Swap", OLD.setup_hash) == [CAMERA, INFER]
    detail = "engine.plan: expected this GPU, got another"
    assert office.answers == [(CommandError.REFUSED_ARTEFACT, detail)]
    assert office.setups.offline() == OfflineReason.NONE


@pytest.mark.parametrize(("open_parts", "missing"), [(0, INFER), (1, "open parts")])
def test_sixty_seconds_and_no_longer(office: Office, open_parts: int, missing: str) -> None:
    office.begin()
    office.setups.tick(1, open_parts)
    office.prepared(CAMERA)
    office.setups.tick(60 * S, open_parts)
    assert office.answers == []
    office.setups.tick(60 * S + 1, open_parts)
    ((code, detail),) = office.answers
    assert code == CommandError.TIMED_OUT
    assert missing in detail
    assert ("run `inspectd engine`" in detail) == (missing == INFER), "what to do about it"
    assert office.setups.current is OLD


def test_answers_to_an_earlier_change_move_nothing(office: Office) -> None:
    office.begin()
    for label in (CAMERA, INFER):
        office.prepared(label)
        office.refused(label)
    assert office.setups.is_changing
    assert office.setups.current is OLD
    office.setups.tick(1, 0)
    assert office.to("Prepare") == [CAMERA, INFER]


def test_answers_for_another_set_up_move_nothing(office: Office) -> None:
    office.begin()
    office.setups.tick(1, 0)
    office.prepared(CAMERA, "another")
    office.refused(INFER, "another")
    office.prepared("infer:7")
    assert office.setups.is_changing


def test_who_took_no_message_is_asked_in_the_next_turn(office: Office) -> None:
    office.deaf = {INFER}
    office.begin()
    office.setups.tick(1, 0)
    office.deaf = set()
    office.setups.tick(2, 0)
    assert office.to("Prepare") == [CAMERA, INFER]


def test_a_new_life_during_the_change_is_asked_again(office: Office) -> None:
    office.begin()
    office.setups.tick(1, 0)
    office.prepared(INFER)
    assert office.heard(INFER, "", pid=2)
    office.prepared(CAMERA)
    assert office.setups.is_changing
    office.setups.tick(2, 0)
    assert office.to("Prepare") == [CAMERA, INFER, INFER]
    office.prepared(INFER)
    assert office.setups.current is NEW


def test_a_second_change_is_busy(office: Office) -> None:
    office.begin()
    office.begin()
    assert [code for code, _ in office.answers] == [CommandError.BUSY]


def test_who_started_afresh_is_given_the_recipe_in_force(office: Office) -> None:
    assert office.heard(INFER, "", pid=2)
    office.setups.tick(1 * S, 0)
    office.setups.tick(2 * S, 0)
    assert office.to("Prepare", OLD.setup_hash) == [INFER]
    office.prepared(INFER, OLD.setup_hash)
    assert office.to("Swap", OLD.setup_hash) == [INFER]
    assert not office.setups.uses_current(INFER)
    assert not office.heard(INFER, OLD.setup_hash, pid=2)
    assert office.setups.uses_current(INFER)


def test_a_refusal_of_the_recipe_in_force_stays_until_it_is_used(office: Office) -> None:
    office.heard(INFER, "", pid=2)
    office.setups.tick(1 * S, 0)
    office.refused(INFER, OLD.setup_hash)
    assert office.setups.offline() == OfflineReason.PASSPORT
    office.setups.tick(5 * S, 0)
    assert office.to("Prepare", OLD.setup_hash) == [INFER, INFER]  # a person may have mended it
    office.heard(INFER, OLD.setup_hash, pid=2)
    assert office.setups.offline() == OfflineReason.NONE


def test_foreign_processes_are_nobody(office: Office) -> None:
    assert not office.heard("infer:7", "")
    office.prepared("infer:7", OLD.setup_hash)
    office.refused("infer:7", OLD.setup_hash)
    assert office.sent == []
    assert office.setups.offline() == OfflineReason.NONE


def test_without_a_recipe_nobody_is_asked() -> None:
    setups = Setups((CAMERA,), lambda label, message: True)
    assert setups.offline() == OfflineReason.NO_RECIPE
    setups.tick(1, 0)
    assert not setups.uses_current(CAMERA)
    assert not setups.peers[CAMERA].is_fresh(1, 1)


def test_a_box_that_gives_the_same_pid_after_a_reboot_has_another_process() -> None:
    office = Office()
    assert office.heard(CAMERA, OLD.setup_hash, life=7)
    assert not office.heard(CAMERA, OLD.setup_hash, life=7)
    assert office.heard(CAMERA, "", life=9)
