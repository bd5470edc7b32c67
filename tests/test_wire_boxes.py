"""Between two boxes: keys, addresses that another box owns, and how much it may send."""

import shutil
import stat
import subprocess
import time

import msgspec
import pytest
import zmq
import zmq.auth

from appliance.errors import ConfigError
from appliance.messages import Health, Trigger
from appliance.wire import CHANNELS
from appliance.wire_keys import curve_keys
from tests.ports import free_port
from tests.waiting import until
from tests.wires import folder, send, wire

__all__ = ["folder", "wire"]


@pytest.fixture
def boxes(folder, wire):
    """Two boxes with CURVE keys; the address of `frames` between them."""
    remote = {"frames": f"tcp://127.0.0.1:{free_port()}"}
    here, there = folder / "here", folder / "there"
    for keys in (here, there):
        curve_keys(keys, "box")
    shutil.copy(here / "box.key", there / "server.key")
    (here / "allowed").mkdir(mode=0o700)
    return here, there, remote


def test_an_allowed_key_gets_through_with_its_pixels(boxes, wire):
    here, there, remote = boxes
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    sender = wire(remote, here).sender("frames", "top")
    receiver = wire(remote, there).receiver("frames", "top")
    send(sender, Trigger(part_id=1), b"pixels")
    message = until("message", receiver.receive)
    assert isinstance(message, Trigger) and message.part_id == 1
    assert receiver.inline == b"pixels"


def hears_nothing(sender, receiver, seconds=0.7):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert not sender.send(Trigger(part_id=1)), "a message was taken"
        assert receiver.receive() is None
        time.sleep(0.005)
    return sender.refused > 0


def test_a_foreign_key_gets_nothing(boxes, wire):
    here, there, remote = boxes
    sender = wire(remote, here).sender("frames", "top")
    assert hears_nothing(sender, wire(remote, there).receiver("frames", "top"))


def test_whoever_has_no_key_at_all_gets_nothing(boxes, wire):
    here, there, remote = boxes
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    sender = wire(remote, here).sender("frames", "top")
    stranger = zmq.Context.instance().socket(zmq.PULL)
    stranger.connect(remote["frames"])
    try:
        for _ in range(100):
            assert not sender.send(Trigger(part_id=1))
            assert stranger.poll(5) == 0
    finally:
        stranger.close(0)


def test_a_server_with_another_key_is_not_believed(boxes, wire, folder):
    here, there, remote = boxes
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    curve_keys(folder / "other", "box")
    shutil.copy(folder / "other" / "box.key", there / "server.key")
    sender = wire(remote, here).sender("frames", "top")
    assert hears_nothing(sender, wire(remote, there).receiver("frames", "top"))


def test_tcp_without_keys_is_refused(wire):
    remote = {"frames": f"tcp://127.0.0.1:{free_port()}"}
    with pytest.raises(ConfigError, match="expected a key directory for tcp addresses, got none"):
        wire(remote).sender("frames", "top")


def test_one_socket_hears_of_this_box_and_of_another_one(boxes, wire):
    """health: the peers of this box are no CURVE servers, in whatever order they are named."""
    here, there, _ = boxes
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    remote = {"health-b": f"tcp://127.0.0.1:{free_port()}"}
    beside = wire()
    local = {peer: beside.sender("health", peer) for peer in ("a", "c")}
    senders = {**local, "b": wire(remote, here).sender("health", "b")}
    receiver = wire(remote, there).receiver("health", "a", "b", "c")
    heard = set()

    def hears_all():
        for peer, sender in senders.items():
            sender.send(Health(process=peer, pid=1, is_serving=True))
        while (message := receiver.receive()) is not None:
            heard.add(message.process)
        return heard == {"a", "b", "c"}

    until("all three", hears_all)


def test_the_key_of_a_host_goes_before_the_one_of_all_others(boxes, wire, folder):
    here, there, remote = boxes
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    (there / "server.key").rename(there / "127.0.0.1.key")
    curve_keys(folder / "other", "box")
    shutil.copy(folder / "other" / "box.key", there / "server.key")
    sender = wire(remote, here).sender("frames", "top")
    receiver = wire(remote, there).receiver("frames", "top")
    send(sender, Trigger(part_id=1))
    assert until("message", receiver.receive) == Trigger(part_id=1)


@pytest.mark.parametrize("content", [None, "no key inside"])
def test_a_missing_or_damaged_server_key_is_named(boxes, wire, content):
    _, there, remote = boxes
    (there / "server.key").unlink()
    if content is not None:
        (there / "server.key").write_text(content)
    with pytest.raises(ConfigError, match=r"server\.key: expected the public CURVE key"):
        wire(remote, there).receiver("frames", "top")


def test_a_damaged_secret_key_is_named(boxes, wire):
    here, _, remote = boxes
    (here / "box.key_secret").write_text("no key inside")
    with pytest.raises(ConfigError, match=r"box\.key_secret: expected a CURVE secret key"):
        wire(remote, here).sender("frames", "top")


def test_a_secret_key_is_made_once_and_for_us_alone(folder):
    keys = folder / "keys"
    first = curve_keys(keys, "box")
    assert curve_keys(keys, "box") == first
    assert stat.S_IMODE((keys / "box.key_secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700


def test_a_port_in_use_is_a_clear_line(boxes, wire):
    here, _, remote = boxes
    wire(remote, here).sender("frames", "top")
    with pytest.raises(ConfigError, match=r"frames: expected a free address tcp://127\.0\.0\.1"):
        wire(remote, here).sender("frames", "top")


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss of iproute2")
def test_the_kernel_watches_whether_another_box_is_still_there(boxes, wire):
    """Who only receives notices nothing by itself when that box loses its power."""
    here, there, remote = boxes
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    sender = wire(remote, here).sender("frames", "top")
    receiver = wire(remote, there).receiver("frames", "top")
    send(sender, Trigger(part_id=1))
    assert until("message", receiver.receive)
    port = remote["frames"].rpartition(":")[2]
    seen = subprocess.run(
        ["ss", "-tnoH", "state", "established", f"( sport = {port} or dport = {port} )"],
        capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    assert seen.count("timer:(keepalive") == 2, seen


def test_another_box_cannot_send_more_than_a_channel_carries(boxes, wire, monkeypatch):
    here, there, _ = boxes
    remote = {"seen": f"tcp://127.0.0.1:{free_port()}"}
    shutil.copy(there / "box.key", here / "allowed" / "there.key")
    changed = msgspec.structs.replace(CHANNELS["seen"], largest_bytes=10_000)
    monkeypatch.setattr("appliance.wire.CHANNELS", {**CHANNELS, "seen": changed})
    receiver = wire(remote, here).receiver("seen")
    sender = wire(remote, there).sender("seen")
    send(sender, Trigger(part_id=1), bytes(20_000))
    until("the small one", lambda: sender.send(Trigger(part_id=2)) and receiver.receive())
    send(sender, Trigger(part_id=3), bytes(9_000))
    until("pixels", lambda: receiver.receive() == Trigger(part_id=3))
    assert receiver.inline == bytes(9_000)
