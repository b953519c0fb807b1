"""Receives numbers over several connections, sends the same, checks every byte of what comes, and at the end how many the other
side has got. Arguments: port, connections, milliseconds between two blocks. $READY is there when each has sent and received."""
import os, selectors, socket, struct, sys, time

PORT, CONNECTIONS, PAUSE, NUMBERS = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000, 1024
# Both directions have to be seen to go on for so long after the last step, in seconds, and to end within so many more.
AFTER, PATIENCE = 5, 150
done, ready = os.environ["STEPS_DONE"], os.environ["READY"]
END, ROOM = 2**64 - 1, 32768
problems, resets = [], 0


class Stream:
    def __init__(self, index):
        self.name = f"connection {index}"
        # The other side chooses: it speaks first.
        self.first = None
        self.socket = socket.socket()
        # What waits on the way has to arrive before the end.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
        self.socket.connect(("127.0.0.1", PORT))
        self.socket.setblocking(False)
        self.sent = self.received = 0
        self.out, self.rest, self.due = b"", b"", 0.0
        self.open, self.told = True, None
        self.moved = {"sent": time.monotonic(), "received": time.monotonic()}
        self.longest = {"sent": 0.0, "received": 0.0}

    def progress(self, way):
        now = time.monotonic()
        self.longest[way] = max(self.longest[way], now - self.moved[way])
        self.moved[way] = now

    def write(self, ending):
        if not self.out:
            if ending:
                self.socket.shutdown(socket.SHUT_WR)
                self.open = False
                return
            if time.monotonic() < self.due or self.first is None:
                return
            number = self.first + self.sent
            self.out = struct.pack(f"<{NUMBERS}Q", *range(number, number + NUMBERS))
            self.sent += NUMBERS
            self.due = time.monotonic() + PAUSE
        taken = self.socket.send(self.out)
        self.out = self.out[taken:]
        self.progress("sent")

    def read(self):
        """Whether it goes on."""
        data = self.socket.recv(1 << 16)
        self.progress("received")
        self.rest += data
        whole = len(self.rest) // 8
        numbers = struct.unpack_from(f"<{whole}Q", self.rest)
        if END in numbers:
            self.told = numbers[numbers.index(END) + 1 :]
            numbers = numbers[: numbers.index(END)]
        if self.first is None and numbers:
            self.first = numbers[0]
        number = (self.first or 0) + self.received
        if numbers != tuple(range(number, number + len(numbers))):
            problems.append(f"{self.name}: wrong after {self.received} numbers")
        self.received += len(numbers)
        # The mark stays: the count may come later.
        self.rest = self.rest[len(numbers) * 8 :]
        if not data:
            if self.open or self.told != (self.sent,):
                problems.append(f"{self.name}: closed, {self.sent} numbers sent, the other side tells of {self.told}")
        return bool(data)


streams = [Stream(index) for index in range(CONNECTIONS)]
selector = selectors.DefaultSelector()
for stream in streams:
    selector.register(stream.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, stream)
ending, since, seen, left = False, None, None, len(streams)
while left and not problems:
    now = time.monotonic()
    if ready and all(stream.sent and stream.received for stream in streams):
        open(ready, "w").close()
        ready = None
    if since is None and os.path.exists(done):
        since, seen = now, [(stream.sent, stream.received) for stream in streams]
    if since is not None and now > since + PATIENCE:
        still = [stream.name for stream in streams if stream.told is None]
        problems.append(f"not at their ends in time: {still}")
    if since is not None and not ending and now > since + AFTER:
        pairs = zip(streams, seen)
        ending = all(stream.sent > sent and stream.received > got for stream, (sent, got) in pairs)
    for key, events in selector.select(0.05):
        stream = key.data
        try:
            if events & selectors.EVENT_WRITE and stream.open:
                stream.write(ending)
                if not stream.open:
                    selector.modify(stream.socket, selectors.EVENT_READ, stream)
            if events & selectors.EVENT_READ and not stream.read():
                selector.unregister(stream.socket)
                left -= 1
        except BlockingIOError:
            pass
        except OSError as error:
            resets += isinstance(error, ConnectionResetError)
            problems.append(f"{stream.name}: {error}")
    if PAUSE:
        time.sleep(PAUSE / 4)
longest = {way: max(stream.longest[way] for stream in streams) for way in ("sent", "received")}
total = {way: sum(getattr(stream, way) for stream in streams) * 8 >> 20 for way in ("sent", "received")}
print(f"{len(streams)} connections, {total['sent']} MB sent, {total['received']} MB received")
print(f"longest gap {max(longest.values()):.2f} s, errors {len(problems)}, resets {resets}")
print("\n".join(problems))
sys.exit(bool(problems))
