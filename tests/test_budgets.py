"""Restart budgets: a fault that stays until the process lives, and does not flicker."""

from appliance.budgets import Budgets

S = 1_000_000_000


def alive(budgets: Budgets, life: int, first_s: float, last_s: float) -> None:
    """Signs of life of the recorder, ten a second."""
    for tenth in range(int(first_s * 10), int(last_s * 10) + 1):
        budgets.heard("record", life, tenth * S // 10)


def test_one_that_crashes_after_every_start_is_spent_all_along() -> None:
    budgets = Budgets(("camera:top", "record"))
    assert budgets.look(["record"], 0) == ("record",)
    for life in range(1, 8):  # it serves, the supervisor takes its word back, and it dies again
        alive(budgets, life, 4 * life, 4 * life + 3)
        assert budgets.look([], (4 * life + 3) * S) == ("record",)
    alive(budgets, 8, 40, 44.9)
    assert budgets.look([], 449 * S // 10) == ("record",)
    budgets.heard("record", 8, 45 * S)
    assert budgets.look([], 45 * S) == ()
    assert budgets.look([], 60 * S) == (), "what it does later is another matter"


def test_silence_is_no_health() -> None:
    budgets = Budgets(("record",))
    budgets.look(["record"], 0)
    assert budgets.look([], 100 * S) == ("record",), "it never said a word"
    alive(budgets, 1, 100, 103)
    alive(budgets, 1, 105, 108)  # a gap: it hung
    assert budgets.look([], 108 * S) == ("record",)
    alive(budgets, 1, 108, 110)
    assert budgets.look([], 112 * S) == ("record",), "and nothing for two seconds now"
    alive(budgets, 1, 112, 117)
    assert budgets.look([], 117 * S) == ()


def test_while_the_supervisor_names_it_it_is_spent() -> None:
    budgets = Budgets(("camera:top", "record"))
    for second in range(20):
        budgets.heard("camera:top", 1, second * S)
    assert budgets.look(["camera-top"], 20 * S) == ("camera-top",)
    assert budgets.look([], 20 * S) == ()


def test_of_a_page_the_word_of_the_supervisor_alone_counts() -> None:
    budgets = Budgets(("record",))
    assert budgets.look(["tool"], 0) == ("tool",)
    assert budgets.look([], S) == ()


def test_what_a_camera_left_that_is_no_more_is_no_fault() -> None:
    budgets = Budgets(("camera:top", "infer-1", "record"))
    left = ["camera-side", "infer-2", "camera-top", "infer-1"]
    assert budgets.look(left, 0) == ("camera-top", "infer-1")
