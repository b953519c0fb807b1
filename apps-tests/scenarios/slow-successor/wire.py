"""A neighbour on the guest's wire: asks for its addresses and pings it all the time, and looks at all that is sent. Arguments: how
long, in seconds, nothing may be answered at most, and how soon a peer must send again when the guest goes on."""
import os, struct, sys, time
from frames import GUEST4, OWN, answers_ping, ask_arp, ping, receive, send, tells_arp, total

LIMIT, SOON, EVERY = float(sys.argv[1]), float(sys.argv[2]), 0.25
# Goes on for so long after the last step, in seconds.
AFTER = 5
done, ready = os.environ["STEPS_DONE"], os.environ["READY"]
start = time.monotonic()


def of_the_link(mac):
    return b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


def ask_neighbour(mac):
    target, source = of_the_link(mac), of_the_link(OWN)
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:]
    body = struct.pack(">I", 0) + target + b"\x01\x01" + OWN
    pseudo = source + group + struct.pack(">II", 4 + len(body), 58)
    icmp = struct.pack(">BBH", 135, 0, total(pseudo + struct.pack(">BBH", 135, 0, 0) + body)) + body
    head = struct.pack(">IHBB", 6 << 28, len(icmp), 58, 255)
    send(b"\x33\x33\xff" + target[13:], 0x86DD, head + source + group + icmp)


class Answers:
    """How often something was asked and answered, and the longest time without an answer."""

    def __init__(self, name):
        self.name, self.asked, self.answered = name, 0, 0
        self.last, self.longest, self.when = None, 0.0, 0.0

    def come(self, now):
        self.answered += 1
        if self.last is not None and now - self.last > self.longest:
            self.longest, self.when = now - self.last, self.last
        self.last = now


arp, pings, neighbours = Answers("addresses"), Answers("pings"), Answers("neighbours")
kinds = (arp, pings, neighbours)
mac, problems, zero, resets, number = None, [], 0, 0, 0
# Of each peer that was told of no room: since when, until when, when the guest went on, and when the peer did.
held = {}


def look(frame, now):
    """At a frame that the guest has sent."""
    global zero, resets
    kind, packet = struct.unpack(">H", frame[12:14])[0], frame[14:]
    if tells_arp(frame, GUEST4):
        arp.come(now)
    elif kind == 0x86DD and packet[6] == 58 and packet[40] == 136 and frame[:6] == OWN:
        neighbours.come(now)
    elif answers_ping(frame, GUEST4):
        pings.come(now)
    elif kind == 0x800 and packet[9] == 6:
        segment, _ = segment_of(packet)
        port = struct.unpack(">H", segment[2:4])[0]
        window = struct.unpack(">H", segment[14:16])[0]
        resets += segment[13] >> 2 & 1
        zero += window == 0
        if window == 0:
            held.setdefault(port, [now, now, None, None])[1:] = [now, None, None]
        elif port in held and held[port][2] is None:
            held[port][2] = now


def segment_of(packet):
    """The segment in a packet, and the bytes that it carries."""
    segment = packet[(packet[0] & 15) * 4 : struct.unpack(">H", packet[2:4])[0]]
    return segment, len(segment) - (segment[12] >> 4) * 4


def look_at_peer(frame, now):
    """At a frame that somebody else has sent to the guest."""
    packet = frame[14:]
    if frame[12:14] == b"\x08\x00" and packet[9] == 6:
        segment, length = segment_of(packet)
        peer = held.get(struct.unpack(">H", segment[:2])[0])
        if length and peer and peer[2] and peer[3] is None:
            peer[3] = now


due, until = 0.0, None
while until is None or time.monotonic() < until:
    now = time.monotonic()
    if until is None and os.path.exists(done):
        until = now + AFTER
    if ready and all(kind.answered > 4 for kind in kinds):
        open(ready, "w").close()
        ready = None
    if now >= due:
        due, number = now + EVERY, number + 1
        ask_arp(GUEST4)
        arp.asked += 1
        if mac:
            ping(mac, GUEST4, number)
            ask_neighbour(mac)
            pings.asked += 1
            neighbours.asked += 1
    frame = receive(0.05)
    if frame:
        if mac is None and tells_arp(frame, GUEST4):
            mac = frame[6:12]
        if mac and frame[6:12] == mac:
            look(frame, time.monotonic())
        elif mac and frame[:6] == mac:
            look_at_peer(frame, time.monotonic())
for kind in kinds:
    silent = time.monotonic() - (kind.last or start)
    print(f"{kind.name}: asked {kind.asked}, answered {kind.answered}, longest {kind.longest:.2f} s from {kind.when - start:.1f} s on")
    if max(kind.longest, silent) > LIMIT:
        problems.append(f"{kind.name}: not answered for {max(kind.longest, silent):.1f} s")
    if kind.answered > kind.asked:
        problems.append(f"{kind.name}: answered by more than one")
print(f"segments of the guest with a window of zero {zero}, resets {resets}")
for port, (first, last, on, again) in sorted(held.items()):
    print(f"port {port}: held from {first - start:.1f} to {last - start:.1f} s", end=", ")
    print(f"on at {(on or start) - start:.2f}, the peer at {(again or start) - start:.2f}")
    if not on or not again or again - on > SOON:
        problems.append(f"port {port}: the peer does not go on with the guest")
if resets:
    problems.append("a reset")
if not zero:
    problems.append("no peer was told that there is no room")
print("\n".join(problems))
sys.exit(bool(problems))
