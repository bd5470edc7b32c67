"""Channels on one box: order, refusals, foreign bytes, and the lock in front of a bind."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import msgspec
import pytest
import zmq
import zmq.auth

from appliance import wire as wire_module
from appliance.codes import CommandError, Reason
from appliance.errors import ConfigError
from appliance.messages import (
    Command,
    CommandResult,
    FrameReady,
    Health,
    NoFrame,
    PixelRef,
    Stored,
    Trigger,
)
from appliance.wire import CHANNELS, Inbox, Wiring, decode, encode
from tests.waiting import until
from tests.wires import folder, health, send, wire

__all__ = ["folder", "wire"]


def test_sockets_lie_in_a_directory_of_our_own(wire, folder):
    wire().receiver("trigger", "top")
    mode = (folder / "run").stat().st_mode
    assert stat.S_IMODE(mode) == 0o700
    assert stat.S_ISSOCK((folder / "run" / "trigger-top").stat().st_mode)


def test_a_path_that_is_too_long_is_a_clear_line(folder):
    deep = folder / ("x" * 120)
    with (
        Wiring(deep) as wiring,
        pytest.raises(ConfigError, match=r"expected a socket directory of at most \d+ char"),
    ):
        wiring.receiver("trigger", "top")


def test_remote_addresses_win_and_the_peer_wins_over_the_channel(folder):
    remote = {"frames": "tcp://10.0.0.1:1", "frames-top": "tcp://10.0.0.2:2"}
    with Wiring(folder, remote) as wiring:
        assert wiring.address("frames", "top") == "tcp://10.0.0.2:2"
        assert wiring.address("frames", "side") == "tcp://10.0.0.1:1"
        assert wiring.address("trigger", "top") == f"ipc://{folder}/trigger-top"
        assert wiring.address("health", "camera:top") == f"ipc://{folder}/health-camera-top"


@pytest.mark.parametrize("channel", [c for c in CHANNELS if c not in ("command", "live", "health")])
def test_every_push_channel_carries_messages_in_order(wire, channel):
    wiring = wire()
    receiver, sender = wiring.receiver(channel, "top"), wiring.sender(channel, "top")
    send(sender, Trigger(part_id=0))
    got = []

    def read():
        while (message := receiver.receive()) is not None:
            got.append(message.part_id)
        return len(got) == 200

    for part_id in range(1, 200):
        send(sender, Trigger(part_id=part_id))
        read()
    until("last", read)
    assert got == list(range(200))


@pytest.mark.parametrize("channel", ["live", "health"])
def test_published_messages_reach_every_listener(wire, channel):
    wiring = wire()
    sender = wiring.sender(channel, "top")
    listeners = [wiring.receiver(channel, "top") for _ in range(2)]
    heard = [None, None]

    def all_heard():
        sender.send(health())
        for index, listener in enumerate(listeners):
            heard[index] = listener.receive() or heard[index]
        return all(heard)

    until("listeners", all_heard)
    assert heard == [health(), health()]
    assert sender.refused == 0


def test_one_listener_hears_several_peers(wire):
    wiring = wire()
    senders = {name: wiring.sender("health", name) for name in ("camera:top", "infer:0")}
    listener = wiring.receiver("health", *senders)
    heard = set()

    def all_heard():
        for name, sender in senders.items():
            sender.send(health(name))
        while (message := listener.receive()) is not None:
            assert isinstance(message, Health)
            heard.add(message.process)
        return heard == set(senders)

    until("peers", all_heard)


def test_without_a_receiver_a_push_is_refused_counted_and_not_kept(wire):
    """A trigger that waited for its camera would photograph another part."""
    wiring = wire()
    sender = wiring.sender("trigger", "top")
    assert [sender.send(Trigger(part_id=n)) for n in (1, 2, 3)] == [False] * 3
    assert sender.refused == 3
    receiver = wiring.receiver("trigger", "top")
    send(sender, Trigger(part_id=4))
    message = until("trigger", receiver.receive)
    assert isinstance(message, Trigger) and message.part_id == 4
    assert receiver.receive() is None


def test_a_receiver_that_does_not_read_is_refused_and_nothing_accepted_is_lost(wire):
    """More waits than the high-water mark says: sockets and their batches hold some, too."""
    wiring = wire()
    sender, receiver = wiring.sender("frames", "top"), wiring.receiver("frames", "top")
    ref = PixelRef(ring="r", epoch=1, slot=0, sequence=1, shape=(1, 1), dtype="uint8")
    message = FrameReady(
        camera="top", part_id=1, frame_id=1, setup_hash="a" * 64, pixels=ref, age_ns=0
    )
    send(sender, message)
    early, accepted, idle = sender.refused, 1, 0
    while idle < 50:
        if sender.send(msgspec.structs.replace(message, frame_id=accepted + 1)):
            accepted, idle = accepted + 1, 0
        else:
            idle += 1
            time.sleep(0.002)
    assert sender.refused - early >= 50
    assert 2 <= accepted < 1000
    got = []
    until("all", lambda: (m := receiver.receive()) and not got.append(m) and len(got) == accepted)
    assert [frame.frame_id for frame in got] == list(range(1, accepted + 1))


def test_a_receiver_that_keeps_up_is_never_refused_however_fast(wire):
    wiring = wire()
    sender, receiver = wiring.sender("frames", "top"), wiring.receiver("frames", "top")
    send(sender, Trigger(part_id=0))
    assert until("message", receiver.receive)
    early = sender.refused
    for part_id in range(1, 300):
        assert sender.send(Trigger(part_id=part_id)), part_id
        message = until("message", receiver.receive)
        assert isinstance(message, Trigger) and message.part_id == part_id
    assert sender.refused == early


def test_a_dead_receiver_leaves_nothing_for_its_successor(wire):
    wiring = wire()
    sender = wiring.sender("trigger", "top")
    first = wire()
    first.receiver("trigger", "top")
    send(sender, Trigger(part_id=1))
    first.close()
    until("loss", lambda: not sender.send(Trigger(part_id=2)))
    receiver = wire().receiver("trigger", "top")
    send(sender, Trigger(part_id=3))
    message = until("trigger", receiver.receive)
    assert isinstance(message, Trigger) and message.part_id == 3


def test_foreign_bytes_are_counted_and_dropped(wire, folder):
    wiring = wire()
    receiver = wiring.receiver("seen")
    stranger = zmq.Context.instance().socket(zmq.PUSH)
    stranger.connect(f"ipc://{folder}/run/seen")
    try:
        for data in (b"", b"hello", b"\xc1", msgspec.msgpack.encode({"type": "Launch"})):
            stranger.send(data)
        stranger.send(encode(Trigger(part_id=5)))
        message = until("message", receiver.receive)
    finally:
        stranger.close(0)
    assert isinstance(message, Trigger) and message.part_id == 5
    assert receiver.foreign == 4


def test_pixels_travel_behind_their_message_and_never_behind_another(wire):
    wiring = wire()
    receiver, sender = wiring.receiver("frames", "top"), wiring.sender("frames", "top")
    send(sender, Trigger(part_id=1), bytes(range(100)))
    assert until("message", receiver.receive)
    assert receiver.inline == bytes(range(100))
    send(sender, Trigger(part_id=2))
    assert until("message", receiver.receive)
    assert receiver.inline is None


def test_the_inbox_tells_who_got_what(wire):
    wiring = wire()
    receivers = [wiring.receiver("trigger", "top"), wiring.receiver("prepare", "camera:top")]
    inbox = Inbox(*receivers)
    assert list(inbox.poll(1)) == []
    send(wiring.sender("trigger", "top"), Trigger(part_id=1))
    send(wiring.sender("prepare", "camera:top"), Trigger(part_id=2))
    got = []
    until("both", lambda: not got.extend(inbox.poll(20)) and len(got) == 2)
    assert {(receivers.index(r), m.part_id) for r, m in got} == {(0, 1), (1, 2)}


def test_the_inbox_wakes_up_at_once(wire):
    wiring = wire()
    inbox = Inbox(wiring.receiver("trigger", "top"))
    sender = wiring.sender("trigger", "top")
    send(sender, Trigger(part_id=0))
    list(inbox.poll(1000))
    timer = threading.Timer(0.05, lambda: sender.send(Trigger(part_id=1)))
    timer.start()
    begun = time.monotonic()
    assert [m.part_id for _, m in inbox.poll(60_000) if isinstance(m, Trigger)] == [1]
    assert time.monotonic() - begun < 30
    timer.join()


def test_commands_find_their_way_back(wire):
    wiring = wire()

    async def talk():
        router, dealers = (
            wiring.async_receiver("command"),
            [wiring.async_sender("command") for _ in range(2)],
        )
        for index, dealer in enumerate(dealers):
            await dealer.send(Command(id=str(index), name="x"))
        for _ in dealers:
            route, command = await router.receive()
            assert isinstance(command, Command)
            await router.send(CommandResult(id=command.id, code=CommandError.DONE), route)
        return [(await dealer.receive())[1] for dealer in dealers]

    answers = asyncio.run(asyncio.wait_for(talk(), 10))
    assert [answer.id for answer in answers if isinstance(answer, CommandResult)] == ["0", "1"]


def test_a_command_that_nobody_took_is_not_obeyed_later(wire, monkeypatch):
    """Who ordered it was told that nobody answers: by then another product may be on the line."""
    monkeypatch.setattr(wire_module, "COMMAND_MS", 20)

    async def talk():
        dealer = wire().async_sender("command")
        begun = time.monotonic()
        early = [Command(id=f"of an hour ago {n}", name="load_recipe") for n in range(2)]
        sending = [asyncio.ensure_future(dealer.send(early[0]))]
        await asyncio.sleep(0.01)
        sending.append(asyncio.ensure_future(dealer.send(early[1])))
        assert await asyncio.gather(*sending) == [False, False]
        assert time.monotonic() - begun < 2
        first = wire()
        first.async_receiver("command")
        assert await _until_taken(dealer, "lost with its receiver")
        first.close()
        while await dealer.send(Command(id="early", name="x")):
            await asyncio.sleep(0.002)
        assert not await dealer.send(Command(id="in between", name="halt"))
        receiver = wire().async_receiver("command")
        assert await _until_taken(dealer, "now")
        return (await receiver.receive())[1]

    command = asyncio.run(asyncio.wait_for(talk(), 10))
    assert isinstance(command, Command) and command.id == "now"


def test_a_command_waits_for_a_decide_that_starts(wire):
    async def talk():
        dealer = wire().async_sender("command")
        sending = asyncio.ensure_future(dealer.send(Command(id="1", name="x")))
        await asyncio.sleep(0)
        receiver = wire().async_receiver("command")
        assert await sending
        return (await receiver.receive())[1]

    command = asyncio.run(asyncio.wait_for(talk(), 10))
    assert isinstance(command, Command) and command.id == "1"


async def _until_taken(dealer, identity):
    while not await dealer.send(Command(id=identity, name="x")):
        pass
    return True


def test_an_async_receiver_hears_blocking_senders(wire):
    wiring = wire()

    async def hear():
        receiver = wiring.async_receiver("seen")
        sender = wiring.sender("seen")
        while not sender.send(Stored(part_ids=(1, 2))):
            await asyncio.sleep(0.002)
        return await receiver.receive()

    route, message = asyncio.run(asyncio.wait_for(hear(), 10))
    assert (route, message) == ([], Stored(part_ids=(1, 2)))


def test_decode_is_strict_about_what_it_knows_and_forgives_what_is_new():
    known = NoFrame(camera="top", part_id=1, reason=Reason.NO_IMAGE, detail="none")
    assert decode(encode(known)) == known
    newer = msgspec.msgpack.decode(encode(known)) | {"colour": "red"}
    assert decode(msgspec.msgpack.encode(newer)) == known
    wrong = msgspec.msgpack.decode(encode(known)) | {"part_id": "one"}
    with pytest.raises(msgspec.ValidationError, match="part_id"):
        decode(msgspec.msgpack.encode(wrong))
    unknown_reason = msgspec.msgpack.decode(encode(known)) | {"reason": 99}
    with pytest.raises(msgspec.ValidationError, match="99"):
        decode(msgspec.msgpack.encode(unknown_reason))


def test_a_live_address_cannot_be_stolen(wire):
    owner, thief = wire(), wire()
    receiver = owner.receiver("trigger", "top")
    with pytest.raises(ConfigError, match="expected an address nobody serves, got another live"):
        thief.receiver("trigger", "top")
    sender = thief.sender("trigger", "top")
    send(sender, Trigger(part_id=1))
    assert until("trigger", receiver.receive)


def test_an_address_is_free_again_after_close(wire):
    owner = wire()
    owner.receiver("seen")
    owner.close()
    owner.close()
    wiring = wire()
    receiver = wiring.receiver("seen")
    send(wiring.sender("seen"), Trigger(part_id=1))
    assert until("message", receiver.receive)


SERVER = """
import sys, time
from pathlib import Path
from appliance.wire import Wiring
wiring = Wiring(Path(sys.argv[1]))
receiver = wiring.receiver("trigger", "top")
print("bound", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_dies_with_its_process(wire, folder, number):
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder / "run")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "bound\n"
        with pytest.raises(ConfigError, match="another live process"):
            wire().receiver("trigger", "top")
        os.kill(process.pid, number)
        process.wait(10)
        wiring = wire()
        receiver = wiring.receiver("trigger", "top")
        send(wiring.sender("trigger", "top"), Trigger(part_id=1))
        assert until("trigger", receiver.receive)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
