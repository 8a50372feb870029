"""A link with delay and loss between two TUN devices, for kernels without netem.

Usage: relay.py NAME NAME DELAY_MS LOSS_PERCENT SEED
"""

import fcntl, heapq, os, random, select, struct, sys, time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


first, second = tun(sys.argv[1]), tun(sys.argv[2])
delay, loss = float(sys.argv[3]) / 1000, float(sys.argv[4]) / 100
random.seed(int(sys.argv[5]))
other = {first: second, second: first}
in_flight, count = [], 0
print("ready", flush=True)
while True:
    left = max(0, in_flight[0][0] - time.monotonic()) if in_flight else None
    # Standard input is closed when the parent ends.
    readable, _, _ = select.select([first, second, sys.stdin], [], [], left)
    if sys.stdin in readable:
        sys.exit()
    for fd in readable:
        try:
            packet = os.read(fd, 65536)
        except OSError:
            time.sleep(0.01)  # the device is not up yet
            continue
        if random.random() >= loss:
            count += 1
            heapq.heappush(in_flight, (time.monotonic() + delay, count, other[fd], packet))
    while in_flight and in_flight[0][0] <= time.monotonic():
        _, _, fd, packet = heapq.heappop(in_flight)
        try:
            os.write(fd, packet)
        except OSError:
            pass  # queue full or device down: the packet is lost
