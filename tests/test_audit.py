"""The audit journal: what is altered, removed, inserted or cut off is found and named."""

import errno
import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from appliance.__main__ import app
from appliance.audit import FIRST, AuditJournal
from appliance.config import Config, load_config
from appliance.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(
        'root = "."\ndeadline_ms = 200\n[[camera]]\nname = "top"\nkind = "files"\nfolder = "f"\n'
    )
    return load_config(path)


@pytest.fixture
def journal(config: Config) -> AuditJournal:
    journal = AuditJournal(config)
    for number in range(1, 6):
        journal.append(
            "ada",
            "limits.approved",
            subject=f"cell/{number}",
            old={"t1": number - 1.0},
            new={"t1": float(number)},
            reason="41 defects, none missed",
            role="engineer",
        )
    return journal


def lines(journal: AuditJournal) -> list[bytes]:
    return journal.path.read_bytes().splitlines(keepends=True)


def test_entries_say_who_what_old_new_and_why(journal: AuditJournal) -> None:
    entries = list(journal.entries())
    assert [entry.number for entry in entries] == [1, 2, 3, 4, 5]
    assert entries[0].previous == FIRST
    assert entries[4].who == "ada"
    assert entries[4].new == {"t1": 5.0}
    assert entries[4].reason == "41 defects, none missed"
    assert json.loads(lines(journal)[4])["old"] == {"t1": 4.0}, "a line is plain JSON"
    finding = journal.verify()
    assert finding.problems == ()
    assert finding.head.number == 5


def test_only_its_user_may_read_it(journal: AuditJournal, config: Config) -> None:
    for path in (journal.path, config.state_dir / "audit.head"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_altered_entry_is_named(journal: AuditJournal) -> None:
    journal.path.write_bytes(journal.path.read_bytes().replace(b'"t1":3.0}', b'"t1":9.0}', 1))
    (problem,) = journal.verify().problems
    assert problem.startswith("line 3: altered")
    with pytest.raises(ConfigError, match="line 3"):
        list(journal.entries())


@pytest.mark.parametrize("which", [0, 2])
def test_a_removed_entry_is_named(journal: AuditJournal, which: int) -> None:
    kept = lines(journal)
    del kept[which]
    journal.path.write_bytes(b"".join(kept))
    (problem,) = journal.verify().problems
    assert problem == f"line {which + 1}: entry {which + 2} follows entry {which}"


def test_exchanged_entries_are_named(journal: AuditJournal) -> None:
    kept = lines(journal)
    kept[1], kept[2] = kept[2], kept[1]
    journal.path.write_bytes(b"".join(kept))
    assert "line 2: entry 3 follows entry 1" in journal.verify().problems


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_cut_end_is_named_and_nothing_is_added_to_it(journal: AuditJournal, cut: int) -> None:
    journal.path.write_bytes(b"".join(lines(journal)[:-cut]))
    assert journal.verify().problems == (f"entries {6 - cut} to 5 are missing at the end",)
    before = journal.path.read_bytes()
    with pytest.raises(ConfigError, match="expected entry 5"):
        journal.append("eve", "limits.approved")
    assert journal.path.read_bytes() == before


def test_a_replaced_last_entry_is_named(config: Config, tmp_path: Path) -> None:
    """Its own hash and its place in the chain are right: the head tells."""
    one = AuditJournal(config)
    one.append("ada", "limits.approved", new=1)
    kept = one.path.read_bytes()
    one.path.unlink()
    (config.state_dir / "audit.head").unlink()
    one.append("eve", "limits.approved", new=2)
    one.path.write_bytes(kept)
    assert one.verify().problems == ("entry 1 is not the one that was written last",)


def test_a_history_written_anew_is_found_by_a_noted_head(journal: AuditJournal) -> None:
    noted = journal.verify().head.hash
    assert journal.verify(noted).problems == ()
    journal.restart("eve", "nothing to see")
    assert journal.verify().problems == ()
    assert journal.verify(noted).problems == (f"no entry has the noted hash {noted}",)


def test_a_missing_head_is_reported_and_stays_on_record(
    journal: AuditJournal, config: Config
) -> None:
    (config.state_dir / "audit.head").unlink()
    assert "cannot be proved" in journal.verify().problems[0]
    journal.append("ada", "user.created", subject="bob")
    assert [entry.what for entry in journal.entries()][5:] == ["audit.head_lost", "user.created"]
    assert journal.verify().problems == ()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_a_power_cut_at_any_byte_loses_only_what_was_not_acknowledged(
    journal: AuditJournal, config: Config, data: st.DataObject
) -> None:
    head = config.state_dir / "audit.head"
    kept, kept_head = journal.path.read_bytes(), head.read_bytes()
    before = journal.verify().head
    journal.append("ada", "limits.proposed", reason="the entry in hand")
    whole = journal.path.read_bytes()
    cut = data.draw(st.integers(len(kept), len(whole)))
    journal.path.write_bytes(whole[:cut])
    head.write_bytes(kept_head)
    finding = journal.verify()
    assert finding.problems == ()
    assert finding.torn_bytes == (cut - len(kept) if cut < len(whole) else 0)
    journal.append("bob", "after")
    whats = [entry.what for entry in journal.entries()][before.number :]
    mended = ["audit.mended"] if finding.torn_bytes else []
    assert whats == [*(["limits.proposed"] if cut == len(whole) else mended), "after"]
    assert journal.verify().problems == ()
    journal.path.write_bytes(kept)
    head.write_bytes(kept_head)


def test_a_full_disk_leaves_the_journal_as_it_was(
    journal: AuditJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = journal.path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            journal.append("ada", "limits.approved")
    assert journal.path.read_bytes() == before
    assert journal.append("ada", "limits.approved").number == 6
    assert journal.verify().problems == ()


def _append(config: Config, who: str) -> None:
    journal = AuditJournal(config)
    for number in range(20):
        journal.append(who, "user.changed", new=number)


def test_several_processes_append_to_one_chain(config: Config) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_append, args=(config, who)) for who in ("ada", "bob")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    journal = AuditJournal(config)
    assert journal.verify().problems == ()
    said = [(entry.who, entry.new) for entry in journal.entries()]
    assert len(said) == 40
    assert [new for who, new in said if who == "bob"] == list(range(20))


def test_the_command_names_what_was_altered(journal: AuditJournal, config: Config) -> None:
    path, runner = str(config.root_dir / "config.toml"), CliRunner()
    done = runner.invoke(app, ["audit", "verify", "--config", path, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report == {
        "good": True,
        "entries": 5,
        "head": journal.verify().head.hash,
        "torn_bytes": 0,
        "problems": [],
    }
    journal.path.write_bytes(journal.path.read_bytes().replace(b"ada", b"eve", 1))
    done = runner.invoke(app, ["audit", "verify", "--config", path])
    assert done.exit_code == 1
    assert "line 1: altered" in done.stdout
    assert "ALTERED" in done.stdout
    done = runner.invoke(app, ["audit", "restart", "--reason", "altered", "--config", path])
    assert done.exit_code == 0, done.output
    (entry,) = journal.entries()
    assert entry.what == "audit.restarted"
    assert (config.data_dir / entry.old["file"]).read_bytes().count(b"eve") == 1
