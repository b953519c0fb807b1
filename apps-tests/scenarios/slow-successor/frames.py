"""Frames of a neighbour on the guest's wire ($WIRE)."""
import os, select, socket, struct

GUEST4, OWN4 = socket.inet_aton("10.0.2.15"), socket.inet_aton("10.0.2.77")
OWN = bytes.fromhex("020000000077")
to, at = map(int, os.environ["WIRE"].split())
wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
wire.bind(("127.0.0.1", at))


def total(data):
    data += b"\0" * (len(data) % 2)
    value = sum(struct.unpack(f">{len(data) // 2}H", data))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return value ^ 0xFFFF


def send(target, kind, payload):
    frame = target + OWN + struct.pack(">H", kind) + payload
    wire.sendto(frame.ljust(60, b"\0"), ("127.0.0.1", to))


def receive(seconds):
    """The next frame on the wire, or None."""
    return wire.recv(1 << 16) if select.select([wire], [], [], seconds)[0] else None


def arp(operation, target, target_address, hardware=b"\xff" * 6):
    head = struct.pack(">HHBBH", 1, 0x800, 6, 4, operation)
    send(hardware, 0x806, head + OWN + OWN4 + target + target_address)


def ask_arp(address):
    arp(1, bytes(6), address)


def tells_arp(frame, address):
    """Whether a frame tells this neighbour who has an address."""
    return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2" and frame[28:32] == address and frame[:6] == OWN


def ping(mac, address, number):
    body = struct.pack(">HH", 0x4F52, number & 0xFFFF) + b"are you there"
    icmp = struct.pack(">BBH", 8, 0, total(struct.pack(">BBH", 8, 0, 0) + body)) + body
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), number & 0xFFFF, 0, 64, 1, 0, OWN4, address)
    head = head[:10] + struct.pack(">H", total(head)) + head[12:]
    send(mac, 0x800, head + icmp)


def answers_ping(frame, address):
    """Whether a frame answers a ping of this neighbour to an address."""
    packet = frame[14:]
    return frame[12:14] == b"\x08\x00" and packet[9] == 1 and packet[20] == 0 and packet[12:20] == address + OWN4
