"""Modbus TCP server: the register image on one side, the PLC's writes on the other.

Frames and PDUs are pymodbus's; connections are ours, because its server answers a turn of the
loop later, forgets pipelined requests and does not tell who asks. Here a request is checked,
applied, shown to the decision process and answered within one turn, so every read is one image
and the answer of FC 23 already shows what its own write caused. It never decides anything.
"""

import asyncio
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

from pymodbus.constants import ExcCodes
from pymodbus.exceptions import ModbusException
from pymodbus.framer import FramerSocket
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadHoldingRegistersResponse,
    ReadInputRegistersRequest,
    ReadInputRegistersResponse,
    ReadWriteMultipleRegistersRequest,
    ReadWriteMultipleRegistersResponse,
    WriteMultipleRegistersRequest,
    WriteMultipleRegistersResponse,
    WriteSingleRegisterRequest,
    WriteSingleRegisterResponse,
)

from appliance.config import Plc
from appliance.errors import AddressInUse, ConfigError
from appliance.refusals import Refusals
from appliance.registers import MAP_WORDS, WRITABLE_WORDS
from appliance.words import Bank, PlcInput, bad_value, decode_input

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_CONNECTIONS = 32
FRAMES_PER_TURN = 16
"""Requests of one client before the others, and the deadlines, have their turn: under 2 ms."""
KEEPALIVE_S = 5
KEEPALIVE_PROBES = 3
MOST_WRITTEN = {16: 123, 23: 121}
"""Registers that one request may write, by function code, as the Modbus specification has it."""

_FREE_BIND = {socket.AF_INET: 15, socket.AF_INET6: 78}
"""IP_FREEBIND, IPV6_FREEBIND: socket names neither."""
_FAULT_SHOWN_IN = (100, 106, 209)
"""Status1, FaultCode, and the copy of Status1 beside the ring."""
_HEADER = struct.Struct(">HHHB")
_REQUESTS: dict[int, type[ModbusPDU]] = {
    3: ReadHoldingRegistersRequest,
    4: ReadInputRegistersRequest,
    6: WriteSingleRegisterRequest,
    16: WriteMultipleRegistersRequest,
    23: ReadWriteMultipleRegistersRequest,
}


class _RequestRefused(Exception):
    """Answered with this exception code; nothing was applied."""

    def __init__(self, code: ExcCodes, why: str, counter: str = "bad_requests") -> None:
        super().__init__(why)
        self.code, self.why, self.counter = code, why, counter


class ModbusPort:
    """The server. Lives on one event loop; `bank` is read and written on that loop alone."""

    def __init__(
        self,
        plc: Plc,
        bank: Bank,
        on_write: Callable[[PlcInput, int], None],
        clock: Callable[[], int],
        on_shown: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """`on_write(input, received_ns)` runs after each accepted write and before its answer,
        `on_shown(True)` with each answer that tells the writer, or who may become it, whether there
        is a fault, `on_shown(False)` where somebody writes who has read no such answer.

        `clock`: monotonic nanoseconds. Raises ConfigError where `plc.allow` holds no address.
        """
        self.counters = {"connections": 0, "refused_writes": 0, "bad_requests": 0}
        self.remark = ""
        """What people should know though it listens."""
        self.refusals = Refusals()
        """For people."""
        self.is_read_only = False
        """Another port is the PLC's: writes are refused."""
        self.clock = clock
        self._plc, self._bank, self._on_write, self._on_shown = plc, bank, on_write, on_shown
        self._allow = allowed_networks(plc)
        self._server: asyncio.Server | None = None
        self._connections: dict[int, _Connection] = {}
        self._writer: _Connection | None = None
        self._shown_to: Address | None = None
        """Who read last whether there is a fault."""
        self._framer = FramerSocket(DecodePDU(is_server=True))

    async def start(self) -> None:
        """Listen. Raises ConfigError naming host and port."""
        host, port = self._plc.host, self._plc.port
        loop = asyncio.get_running_loop()
        try:
            try:
                self._server = await loop.create_server(lambda: _Connection(self), host, port)
            except OSError as err:
                if (early := _early_listener(host, port)) is None:
                    raise err
                self.remark = f"[plc] host = {host} is no address of this machine yet"
                self._server = await loop.create_server(lambda: _Connection(self), sock=early)
        except OSError as err:
            where = f"[plc] host, port = {host}:{port}"
            raise AddressInUse(where, "a free address of this machine", str(err)) from err

    async def stop(self) -> None:
        """Stop listening and hang up on everyone."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections.values()):
                self.drop(connection)
            await self._server.wait_closed()
            self._server = None

    @property
    def port(self) -> int:
        """The port in use: what the configuration says, or what the system gave for 0."""
        if self._server is None:
            return self._plc.port
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    @property
    def writer(self) -> str:
        """Address of the one client that may write; "" while there is none."""
        return str(self._writer.address) if self._writer else ""

    @property
    def open_connections(self) -> int:
        """Clients connected just now."""
        return len(self._connections)

    def joined(self, connection: "_Connection") -> int:
        """A client connected; returns its number. Beyond the limit the longest idle reader goes."""
        self.counters["connections"] += 1
        number = self.counters["connections"]
        if len(self._connections) >= MAX_CONNECTIONS:
            readers = (c for c in self._connections.values() if c is not self._writer)
            self.drop(min(readers, key=lambda reader: reader.asked_ns))
        self._connections[number] = connection
        return number

    def drop(self, connection: "_Connection") -> None:
        """Hang up, if it has not happened yet, and forget."""
        self._connections.pop(connection.number, None)
        if self._writer is connection:
            self._writer = None
        connection.transport.abort()

    def answer(self, connection: "_Connection", frame: bytes, received_ns: int) -> bytes:
        """The answer to one complete frame, MBAP header included."""
        transaction, _, _, unit = _HEADER.unpack_from(frame)
        code = frame[_HEADER.size]
        try:
            request = _decode(code, frame[_HEADER.size + 1 :])
            response = self._execute(connection, request, received_ns)
        except _RequestRefused as refused:
            response = ExceptionResponse(code & 0x7F, refused.code)
            self.counters[refused.counter] += 1
            self.refusals.add(f"{connection.address}: {refused.why}", received_ns)
        response.transaction_id, response.dev_id = transaction, unit
        return self._framer.buildFrame(response)

    def _execute(
        self, connection: "_Connection", request: ModbusPDU, received_ns: int
    ) -> ModbusPDU:
        address = request.address
        match request:
            case ReadInputRegistersRequest():
                words = self._tell(connection, address, request.count)
                return ReadInputRegistersResponse(registers=words)
            case ReadHoldingRegistersRequest():
                words = self._tell(connection, address, request.count)
                return ReadHoldingRegistersResponse(registers=words)
            case WriteSingleRegisterRequest():
                self._write(connection, address, request.registers, received_ns)
                return WriteSingleRegisterResponse(address=address, registers=request.registers)
            case WriteMultipleRegistersRequest():
                self._write(connection, address, request.registers, received_ns)
                return WriteMultipleRegistersResponse(address=address, count=request.count)
            case ReadWriteMultipleRegistersRequest():
                # Both halves are checked before the first one is applied.
                self._read(request.read_address, request.read_count)
                self._write(connection, request.write_address, request.write_registers, received_ns)
                words = self._tell(connection, request.read_address, request.read_count)
                return ReadWriteMultipleRegistersResponse(registers=words)
            case _:
                raise AssertionError(f"{type(request).__name__} is decoded but not served")

    def _tell(self, connection: "_Connection", address: int, count: int) -> list[int]:
        """Read for an answer; the writer may read on a connection of its own."""
        words = self._read(address, count)
        is_writer = self._writer is None or connection.address == self._writer.address
        if is_writer and any(address <= place < address + count for place in _FAULT_SHOWN_IN):
            self._shown_to = connection.address
            self._on_shown(True)
        return words

    def _read(self, address: int, count: int) -> list[int]:
        if address + count > MAP_WORDS:
            raise _RequestRefused(ExcCodes.ILLEGAL_ADDRESS, _outside("reads", address, count))
        return self._bank.read(address, count)

    def _write(
        self, connection: "_Connection", address: int, words: Sequence[int], received_ns: int
    ) -> None:
        """Apply and tell, or refuse and leave every register as it was."""
        if why := self._why_not_writer(connection):
            raise _RequestRefused(ExcCodes.ILLEGAL_FUNCTION, why, "refused_writes")
        if address + len(words) > WRITABLE_WORDS:
            why = _outside("writes", address, len(words))
            raise _RequestRefused(ExcCodes.ILLEGAL_ADDRESS, why, "refused_writes")
        if why := bad_value(address, words):
            raise _RequestRefused(ExcCodes.ILLEGAL_VALUE, why, "refused_writes")
        if self._writer is not connection:
            if connection.address != self._shown_to:
                self._on_shown(False)
            old, self._writer = self._writer, connection
            if old is not None:
                self.drop(old)
        self._bank.write(address, words)
        self._on_write(decode_input(self._bank), received_ns)

    def _why_not_writer(self, connection: "_Connection") -> str:
        """One writer: the first that writes, or a newer connection of the same address."""
        if self.is_read_only:
            return "writes, but the PLC is at the 24 V inputs"
        if self._allow and not any(connection.address in network for network in self._allow):
            return "writes, but is not in [plc] allow"
        writer = self._writer
        if writer is None or writer is connection:
            return ""
        if connection.address != writer.address:
            return f"writes, but {writer.address} is the writer"
        if connection.number < writer.number:
            return "writes on an older connection than the writer's"
        return ""


class _Connection(asyncio.Protocol):
    """One client: bytes into frames, answers back, bounded in memory and in time per turn."""

    transport: asyncio.Transport
    address: Address
    number: int

    def __init__(self, port: ModbusPort) -> None:
        self.asked_ns = port.clock()
        self._port = port
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.address = _address(transport.get_extra_info("peername")[0])
        line: socket.socket = transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        self.number = self._port.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.drop(self)

    def pause_writing(self) -> None:
        # It asks and does not read: answers may not pile up here.
        self._port.drop(self)

    def data_received(self, data: bytes) -> None:
        self.asked_ns = self._port.clock()
        self._received += data
        self._serve()

    def _serve(self) -> None:
        for _ in range(FRAMES_PER_TURN):
            if self.transport.is_closing():
                return
            frame = self._next_frame()
            if not frame:
                self.transport.resume_reading()
                return
            self.transport.write(self._port.answer(self, frame, self.asked_ns))
        self.transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._serve)

    def _next_frame(self) -> bytes:
        """The next complete frame, or nothing yet."""
        if len(self._received) < _HEADER.size:
            return b""
        _, protocol, length, _ = _HEADER.unpack_from(self._received)
        if protocol != 0 or not 2 <= length <= 254:
            # Not Modbus, or out of step: where the next frame begins cannot be known any more.
            self._port.counters["bad_requests"] += 1
            self._port.drop(self)
            return b""
        end = 6 + length
        if len(self._received) < end:
            return b""
        frame = bytes(self._received[:end])
        del self._received[:end]
        return frame


def _early_listener(host: str, port: int) -> socket.socket | None:
    """At an address that this machine does not have yet: before the PLC is switched on its cable
    carries nothing, and the interface may have none. None where that is not what is wrong."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        return None
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.bind((host, 0))
    except OSError as err:
        if err.errno == errno.EADDRNOTAVAIL:
            level = socket.IPPROTO_IPV6 if family == socket.AF_INET6 else socket.IPPROTO_IP
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(level, _FREE_BIND[family], 1)
            try:
                listener.bind((host, port))
                return listener
            except OSError:
                pass
    listener.close()
    return None


def _decode(code: int, body: bytes) -> ModbusPDU:
    """A request whose counts and lengths agree. Raises _RequestRefused with 01 or 03."""
    if code not in _REQUESTS:
        raise _RequestRefused(ExcCodes.ILLEGAL_FUNCTION, f"function code {code} is not served")
    request = _REQUESTS[code]()
    try:
        request.decode(body)
    except (ModbusException, ValueError, IndexError, struct.error) as err:
        raise _RequestRefused(ExcCodes.ILLEGAL_VALUE, f"function code {code}: {err}") from err
    # pymodbus leaves the agreement of counts, byte count and length to its own data store.
    match request:
        case WriteMultipleRegistersRequest():
            head, count, size = 5, request.count, request.byte_count or 0
        case ReadWriteMultipleRegistersRequest():
            head, count, size = 9, request.write_count, request.write_byte_count
        case _:
            head, count, size = 4, 0, 0
    is_count_allowed = code not in MOST_WRITTEN or 1 <= count <= MOST_WRITTEN[code]
    if not is_count_allowed or size != 2 * count or len(body) != head + size:
        why = f"function code {code}: count {count}, byte count {size}, {len(body)} bytes disagree"
        raise _RequestRefused(ExcCodes.ILLEGAL_VALUE, why)
    return request


def _outside(verb: str, address: int, count: int) -> str:
    return f"{verb} HR {address} to {address + count - 1}, which is outside the map"


def allowed_networks(plc: Plc) -> list[Network]:
    """Who may write; empty = whoever comes first. Raises ConfigError."""
    return [_network(text) for text in plc.allow]


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as err:
        expected = "an IP address or network such as 192.168.0.5 or 192.168.0.0/24"
        raise ConfigError("[plc] allow", expected, repr(text)) from err


def _address(text: str) -> Address:
    """IPv4 peers of a dual-stack socket count as IPv4."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
