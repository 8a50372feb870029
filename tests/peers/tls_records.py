"""tlslite-ng as a client that sends records that other clients do not send.

Argument: the port of a server that echoes. Prints a line for each case: what the server should have
done, and what it did if that was something else.
"""

import socket
import sys

from tlslite.api import HandshakeSettings, TLSConnection
from tlslite.constants import AlertDescription
from tlslite.errors import TLSAbruptCloseError, TLSClosedConnectionError, TLSRemoteAlert
from tlslite.messages import ApplicationData, Finished, Message

PORT = int(sys.argv[1])
TLS12, TLS13 = (3, 3), (3, 4)
CCS, ALERT, HANDSHAKE, DATA, HEARTBEAT, UNKNOWN = 20, 21, 22, 23, 24, 99
WARNING, FATAL = 1, 2
CLOSE_NOTIFY, USER_CANCELED, NO_RENEGOTIATION = 0, 90, 100
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
KEY_UPDATE = bytearray([24, 0, 0, 1, 0])
# The head of a ClientHello; the server need not read on to refuse it.
HELLO = bytearray([1, 0, 0, 2, 3, 3])


class Peer(TLSConnection):
    """A connection of this version, with the means to send single records."""

    latest = None

    def __init__(self, version, record_size=None):
        stream = socket.create_connection(("127.0.0.1", PORT), timeout=3)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(stream)
        Peer.latest = self
        self.settings = HandshakeSettings()
        self.settings.minVersion = self.settings.maxVersion = version
        # What the server ends is read to its end, not closed by this side.
        self.closeSocket = False
        if record_size:
            self.recordSize = record_size

    def open(self):
        self.handshakeClientCert(settings=self.settings, serverName="localhost")
        self.write(REQUEST)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.read(1, 1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    def record(self, kind, data):
        """Sends one record, of whatever length."""
        for _ in self._recordLayer.sendRecord(Message(kind, bytearray(data))):
            pass

    def alert(self, level, description):
        self.record(ALERT, [level, description])

    def inner(self, data):
        """Sends a record of TLS 1.3 whose encrypted part is this, without a type at its end."""
        sealed = self._recordLayer._encryptThenSeal(bytearray(data), DATA)
        self.raw(bytearray([DATA, 3, 3, len(sealed) >> 8, len(sealed) & 255]) + sealed)

    def raw(self, data):
        self.sock.flush()
        self.sock.socket.sendall(data)

    def update_key(self, request):
        for _ in self.send_keyupdate_request(request):
            pass

    def echo(self, text=b"still here"):
        self.write(frame(text))
        self.receive(text)

    def receive(self, text):
        length = len(text)
        head = bytes([0x81, length]) if length < 126 else bytes([0x81, 126, length >> 8, length & 255])
        assert self.read(None, len(head) + length) == head + text


def frame(text):
    """A text message of a client, with a mask of zeros."""
    length = len(text)
    head = bytes([0x80 | length]) if length < 126 else bytes([0xFE, length >> 8, length & 255])
    return b"\x81" + head + bytes(4) + text


# What the server takes: each case ends with an echo.


def tiny_records(version):
    Peer(version, record_size=1).open().echo()


def records_of_the_largest_size(version):
    peer = Peer(version).open()
    peer.echo(b"x" * (16384 - 8))


def empty_data(version):
    peer = Peer(version).open()
    for byte in frame(b"hello"):
        for part in [b"", bytes([byte]), b"", b""]:
            peer.record(DATA, part)
    peer.receive(b"hello")


def an_empty_handshake_record(version):
    peer = Peer(version).open()
    peer.record(HANDSHAKE, b"")
    peer.echo()


def a_canceled_user(version):
    peer = Peer(version).open()
    peer.alert(WARNING, USER_CANCELED)
    peer.echo()


def a_harmless_warning(version):
    peer = Peer(version).open()
    peer.alert(WARNING, NO_RENEGOTIATION)
    peer.echo()


def padding(version):
    peer = Peer(version)
    peer._recordLayer.padding_cb = lambda length, kind, most: min(most, 700)
    peer.open().echo()
    # As much as fits, around no data at all.
    peer._recordLayer.padding_cb = lambda length, kind, most: most
    for _ in range(20):
        peer.record(DATA, b"")
    peer.echo()


def key_updates_within_a_message(version):
    peer = Peer(version).open()
    bytes_left = frame(b"x" * 10)
    for at, byte in enumerate(bytes_left):
        peer.record(DATA, [byte])
        peer.update_key(at % 2)
    peer.receive(b"x" * 10)


# What the server refuses: each case ends with this alert.


def too_long(version):
    Peer(version).open().record(DATA, bytes(16385))


def far_too_long(version):
    Peer(version).open().raw(bytearray([DATA, 3, 3, 0x48, 0x01]) + bytes(18433))


def a_changed_byte(version):
    Peer(version).open().raw(bytearray([DATA, 3, 3, 0, 40]) + bytes(40))


def a_wrong_finished(version):
    create = Finished.create
    Finished.create = lambda self, data: create(self, bytearray(len(data)))
    try:
        Peer(version).open()
    finally:
        Finished.create = create


def data_before_finished(version):
    peer = Peer(version)
    send = peer._recordLayer.sendRecord

    def with_data(message):
        is_finished = message.contentType == HANDSHAKE and message.write()[:1] == b"\x14"
        # In TLS 1.2 the message is encrypted, in 1.3 with the keys of the handshake.
        if is_finished:
            yield from send(ApplicationData().create(bytearray(b"early")))
        yield from send(message)

    peer._recordLayer.sendRecord = with_data
    peer.open()


def an_unknown_type(version):
    Peer(version).open().record(UNKNOWN, b"hello")


def a_heartbeat(version):
    Peer(version).open().record(HEARTBEAT, b"\x01\x00\x03abc" + bytes(16))


def an_empty_alert(version):
    Peer(version).open().record(ALERT, b"")


def half_an_alert(version):
    Peer(version).open().record(ALERT, [WARNING])


def a_second_hello(version):
    Peer(version).open().record(HANDSHAKE, HELLO)


def a_late_change_of_ciphers(version):
    Peer(version).open().record(CCS, [1])


def no_type(version):
    Peer(version).open().inner(bytes(100))


def nothing_inside(version):
    Peer(version).open().inner(b"")


def a_key_update_of_an_unknown_kind(version):
    Peer(version).open().record(HANDSHAKE, KEY_UPDATE[:4] + b"\x02")


def data_in_the_middle_of_a_key_update(version):
    peer = Peer(version).open()
    peer.record(HANDSHAKE, KEY_UPDATE[:3])
    peer.record(DATA, b"data")


def a_key_update_before_the_end_of_its_record(version):
    Peer(version).open().record(HANDSHAKE, KEY_UPDATE + KEY_UPDATE)


def endless_warnings(version):
    peer = Peer(version).open()
    for _ in range(100):
        peer.alert(WARNING, USER_CANCELED)


def endless_key_updates(version):
    peer = Peer(version).open()
    for _ in range(100):
        peer.update_key(0)


# What ends the connection without an error of the server.


def a_fatal_alert(version):
    Peer(version).open().alert(FATAL, 80)


def data_after_close_notify(version):
    peer = Peer(version).open()
    peer.alert(WARNING, CLOSE_NOTIFY)
    peer.raw(bytes(range(256)) * 40)


BOTH = [TLS12, TLS13]
# The alerts are those of rustls, which sends `decode_error`, or none, where RFC 8446 asks for
# `unexpected_message`, and ignores an empty handshake record.
CASES = [
    ("echo", BOTH, tiny_records),
    ("echo", BOTH, records_of_the_largest_size),
    ("echo", BOTH, empty_data),
    ("echo", BOTH, an_empty_handshake_record),
    ("echo", BOTH, a_canceled_user),
    ("echo", [TLS12], a_harmless_warning),
    ("echo", [TLS13], padding),
    ("echo", [TLS13], key_updates_within_a_message),
    ("record_overflow", BOTH, too_long),
    ("decode_error", BOTH, far_too_long),
    ("bad_record_mac", BOTH, a_changed_byte),
    ("decrypt_error", BOTH, a_wrong_finished),
    ("unexpected_message", BOTH, data_before_finished),
    ("decode_error", BOTH, an_unknown_type),
    ("decode_error", BOTH, a_heartbeat),
    ("decode_error", BOTH, an_empty_alert),
    ("decode_error", BOTH, half_an_alert),
    ("decode_error", BOTH, a_second_hello),
    ("decode_error", [TLS12], a_late_change_of_ciphers),
    ("unexpected_message", [TLS13], a_late_change_of_ciphers),
    ("end", [TLS13], no_type),
    ("end", [TLS13], nothing_inside),
    ("illegal_parameter", [TLS13], a_key_update_of_an_unknown_kind),
    ("end", [TLS13], data_in_the_middle_of_a_key_update),
    ("unexpected_message", [TLS13], a_key_update_before_the_end_of_its_record),
    ("end", BOTH, endless_warnings),
    ("end", [TLS13], endless_key_updates),
    ("end", BOTH, a_fatal_alert),
    ("close_notify", BOTH, data_after_close_notify),
]


def outcome(expected, case, version):
    """What the server does: it echoes, or it ends the connection, with an alert or without."""
    try:
        case(version)
        if expected == "echo":
            return "echo"
    except TLSRemoteAlert as alert:
        return AlertDescription.toStr(alert.description)
    except (OSError, TLSAbruptCloseError, TLSClosedConnectionError):
        # The server has closed before all was sent. Its alert may be there.
        pass
    try:
        while Peer.latest.read(16384, 1):
            pass
        return "close_notify"
    except TLSRemoteAlert as alert:
        return AlertDescription.toStr(alert.description)
    except TLSAbruptCloseError:
        return "end"
    except TimeoutError:
        return "nothing"


failed = False
for expected, versions, case in CASES:
    for version in versions:
        got = outcome(expected, case, version)
        failed |= got != expected
        print(f"{case.__name__}, TLS 1.{version[1] - 1}: {got}", "" if got == expected else f"and not {expected}")
sys.exit(failed)
