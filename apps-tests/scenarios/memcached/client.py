"""Fills a memcached, asks and changes it all the time over several connections, and in the end asks for everything."""
import os, socket, sys, threading, time

PORT, CONNECTIONS, KEYS, SIZE = int(sys.argv[1]), 4, 4000, 8000
# So many answers are wanted on each connection after the last step.
AFTER = 100
done = os.environ["STEPS_DONE"]
problems, longest, counts = [], {}, {}


def value(key, round):
    seed = f"{key} {round} ".encode()
    return (seed * (SIZE // len(seed) + 1))[:SIZE]


class Client:
    def __init__(self, number):
        self.number = number
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=180)
        self.file = self.socket.makefile("rb")

    def ask(self, question, answer):
        before = time.monotonic()
        self.socket.sendall(question)
        answer = answer()
        longest[self.number] = max(longest.get(self.number, 0), time.monotonic() - before)
        return answer

    def set(self, key, data):
        answer = self.ask(f"set {key} 7 0 {len(data)}\r\n".encode() + data + b"\r\n", self.file.readline)
        if answer != b"STORED\r\n":
            raise ValueError(f"set {key}: {answer}")

    def get(self, key):
        head = self.ask(f"get {key}\r\n".encode(), self.file.readline)
        if head != f"VALUE {key} 7 {SIZE}\r\n".encode():
            raise ValueError(f"get {key}: {head}")
        data = self.file.read(SIZE + 2)[:-2]
        end = self.file.readline()
        if end != b"END\r\n":
            raise ValueError(f"get {key}: {end}")
        return data


def work(number, keys):
    try:
        client, rounds, at, after = Client(number), dict.fromkeys(keys, 0), 0, 0
        for key in keys:
            client.set(key, value(key, 0))
        print(f"connection {number}: filled", flush=True)
        while after < AFTER and not problems:
            key = keys[at % len(keys)]
            if client.get(key) != value(key, rounds[key]):
                raise ValueError(f"key {key}: another value than in round {rounds[key]}")
            if at % 3 == 0:
                client.set(key, value(key, rounds[key] + 1))
                rounds[key] += 1
            at, counts[number] = at + 7, counts.get(number, 0) + 1
            after += os.path.exists(done)
            time.sleep(0.005)
        for key in keys:
            if client.get(key) != value(key, rounds[key]):
                raise ValueError(f"in the end, key {key}: another value than in round {rounds[key]}")
    except (OSError, ValueError) as error:
        problems.append(f"connection {number}: {type(error).__name__}: {error}")


everything = [f"key-{n}" for n in range(KEYS)]
threads = [threading.Thread(target=work, args=(n, everything[n::CONNECTIONS])) for n in range(CONNECTIONS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{sum(counts.values())} rounds, {KEYS} keys of {SIZE} bytes complete, longest gap {max(longest.values(), default=0):.2f} s,"
      f" errors {len(problems)}")
print("\n".join(problems))
sys.exit(bool(problems))
