"""Fills a Redis, asks and changes it all the time over several connections, and in the end asks for everything."""
import os, socket, sys, threading, time

PORT, CONNECTIONS, KEYS, SIZE = int(sys.argv[1]), 4, 2000, 2000
# So many rounds are wanted on each connection after the last step.
AFTER = 100
done, ready = os.environ["STEPS_DONE"], os.environ["READY"]
problems, longest, counts = [], {}, {}
filled = threading.Barrier(CONNECTIONS + 1)


def value(key, round):
    seed = f"{key} {round} ".encode()
    return (seed * (SIZE // len(seed) + 1))[:SIZE]


class Client:
    """A connection that is never opened again."""

    def __init__(self, number):
        self.number = number
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=180)
        self.file = self.socket.makefile("rb")

    def ask(self, *words):
        """Sends a command in RESP and reads its answer."""
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(words)] + [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        before = time.monotonic()
        self.socket.sendall(b"".join(parts))
        answer = self.answer()
        longest[self.number] = max(longest.get(self.number, 0), time.monotonic() - before)
        return answer

    def answer(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ValueError(f"the connection has ended: {line}")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$" and int(rest) >= 0:
            return self.file.read(int(rest) + 2)[:-2]
        return int(rest) if kind == b":" else line[:-2]

    def expect(self, answer, *words):
        if (given := self.ask(*words)) != answer:
            raise ValueError(f"{words[:2]}: {given[:60] if isinstance(given, bytes) else given}, expected {answer[:60] if isinstance(answer, bytes) else answer}")


def work(number, keys):
    rounds, at, after, sum = dict.fromkeys(keys, 0), 0, 0, 0
    try:
        client = Client(number)
        for key in keys:
            client.expect(b"+OK", "SET", key, value(key, 0))
        filled.wait()
        while after < AFTER and not problems:
            key = keys[at % len(keys)]
            client.expect(value(key, rounds[key]), "GET", key)
            if at % 3 == 0:
                client.expect(b"+OK", "SET", key, value(key, rounds[key] + 1))
                rounds[key] += 1
            # A command that is done twice, or not at all, is seen.
            sum += 1
            client.expect(sum, "INCR", f"sum-{number}")
            at, counts[number] = at + 7, counts.get(number, 0) + 1
            after += os.path.exists(done)
            time.sleep(0.005)
        for key in keys:
            client.expect(value(key, rounds[key]), "GET", key)
        client.expect(str(sum).encode(), "GET", f"sum-{number}")
    except (OSError, ValueError, threading.BrokenBarrierError) as error:
        problems.append(f"connection {number}: {type(error).__name__}: {error}")
        filled.abort()


everything = [f"key-{n}" for n in range(KEYS)]
threads = [threading.Thread(target=work, args=(n, everything[n::CONNECTIONS])) for n in range(CONNECTIONS)]
for thread in threads:
    thread.start()
try:
    filled.wait()
    open(ready, "w").close()
except threading.BrokenBarrierError:
    pass
for thread in threads:
    thread.join()
print(f"{sum(counts.values())} rounds, {KEYS} keys of {SIZE} bytes complete, longest gap {max(longest.values(), default=0):.2f} s,"
      f" errors {len(problems)}")
print("\n".join(problems))
sys.exit(bool(problems))
