"""Python's websockets as a client: makes every offer of compression and checks the echoes.

Arguments: URL, "all" or "some".
"""

import itertools
import random
import sys

from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect

URL, WHICH = sys.argv[1:]
RANDOM = random.Random(7692)
SCRIPTS = ["plain words, ", "grüße und Straße, ", "привет всем, ", "你好，世界。", "मरहबा دنیا ", "🦀🐍🚀 "]


def small():
    for size in [0, 1, 5, 63, 64, 300, 1000, 5000]:
        yield (RANDOM.choice(SCRIPTS) * size)[:size]
        yield RANDOM.randbytes(size)
        yield bytes(RANDOM.choice(b"abc") for _ in range(size))
    yield '{"type":"chat","text":"the same again"}' * 3
    yield '{"type":"chat","text":"the same again"}' * 3


def large():
    for size in [65_535, 65_536, 1 << 20, 4 << 20]:
        yield RANDOM.randbytes(size)
        yield RANDOM.randbytes(size // 64) * 64
        text = "".join(SCRIPTS) * (size // 100)
        while len(text.encode()) > size:
            text = text[: len(text) * 9 // 10]
        yield text


def pieces(message):
    """Splits a message into fragments, one of them empty."""
    cuts = sorted(RANDOM.randrange(len(message) + 1) for _ in range(3))
    ends = [0, *cuts, cuts[-1], len(message)]
    return [message[start:end] for start, end in zip(ends, ends[1:])]


def check(messages, **offer):
    factory = ClientPerMessageDeflateFactory(**offer)
    with connect(URL, extensions=[factory], compression=None, max_size=None, open_timeout=60) as socket:
        (agreed,) = socket.protocol.extensions
        for number, message in enumerate(messages):
            if number % 4 == 3:
                socket.send(pieces(message))
            else:
                socket.send(message)
            if number % 7 == 0:
                socket.ping()
            echo = socket.recv(timeout=60)
            assert echo == message, f"{offer}, {agreed}: {message[:40]!r} came back as {echo[:40]!r}"


# zlib cannot compress with a window of 256 bytes (8 bits), so a client must not offer it; it can inflate it.
SERVER_BITS = [None, 8, 9, 10, 11, 12, 13, 14, 15] if WHICH == "all" else [None, 8, 12]
CLIENT_BITS = [None, True, 9, 10, 11, 12, 13, 14, 15] if WHICH == "all" else [None, True, 9]
connections = 0
for server_alone, client_alone, server_bits, client_bits in itertools.product(
    [False, True], [False, True], SERVER_BITS, CLIENT_BITS
):
    check(
        small(),
        server_no_context_takeover=server_alone,
        client_no_context_takeover=client_alone,
        server_max_window_bits=server_bits,
        client_max_window_bits=client_bits,
    )
    connections += 1
check(large(), client_max_window_bits=True)
check(large(), server_max_window_bits=9, client_max_window_bits=9)
print(connections + 2)
