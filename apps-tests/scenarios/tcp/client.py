"""Sends and receives a counter over several connections, and checks every byte of what comes."""
import os, socket, struct, sys, threading, time

PORT, CONNECTIONS, NUMBERS = int(sys.argv[1]), 4, 1024
# Both directions have to be seen to go on for so long after the last step, in seconds.
AFTER = 5
done = os.environ["STEPS_DONE"]
problems, last, longest, counts = [], {}, {}, {}
resets = 0


def block(first):
    return struct.pack(f"<{NUMBERS}Q", *range(first, first + NUMBERS))


def progress(name, number):
    now = time.monotonic()
    longest[name] = max(longest.get(name, 0), now - last.get(name, now))
    last[name], counts[name] = now, number


def send(connection, name):
    number = 0
    while not problems:
        connection.sendall(block(number))
        number += NUMBERS
        progress(name, number)
        time.sleep(0.02)


def receive(connection, name):
    number, rest = 0, b""
    while not problems:
        data = connection.recv(1 << 16)
        if not data:
            problems.append(f"{name}: closed")
            return
        rest += data
        whole = len(rest) // 8
        expected = struct.pack(f"<{whole}Q", *range(number, number + whole))
        if rest[: whole * 8] != expected:
            problems.append(f"{name}: wrong after {number} numbers")
            return
        number, rest = number + whole, rest[whole * 8 :]
        progress(name, number)


def run(function, connection, name):
    try:
        function(connection, name)
    except OSError as error:
        global resets
        resets += isinstance(error, ConnectionResetError)
        problems.append(f"{name}: {error}")


for i in range(CONNECTIONS):
    connection = socket.create_connection(("127.0.0.1", PORT))
    for function in (send, receive):
        arguments = (function, connection, f"{function.__name__} {i}")
        threading.Thread(target=run, args=arguments, daemon=True).start()
while not os.path.exists(done) and not problems:
    time.sleep(0.1)
before, end = dict(counts), time.monotonic() + 60
while time.monotonic() < end and not problems:
    time.sleep(AFTER)
    if all(counts[name] > before.get(name, 0) for name in counts):
        break
still = [name for name in counts if counts[name] <= before.get(name, 0)]
problems += [f"{name}: nothing moves any more" for name in still]
for name in sorted(counts):
    print(f"{name}: {counts[name]} numbers, longest gap {longest[name]:.2f} s")
print(f"longest gap {max(longest.values(), default=0):.2f} s, errors {len(problems)}, resets {resets}")
print("\n".join(problems))
sys.exit(bool(problems))
