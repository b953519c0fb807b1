"""Asks Apache for a page and memcached for numbers, each over one connection, and expects the right answers."""
import http.client, os, socket, sys, threading, time

WEB, CACHE = map(int, sys.argv[1:3])
# So many answers are wanted from each after the last step.
AFTER = 50
done = os.environ["STEPS_DONE"]
problems, longest, counts = [], {}, {}


def ask_web():
    connection = http.client.HTTPConnection("127.0.0.1", WEB, timeout=180)
    connection.connect()
    # One that was closed stays closed, instead of being opened again without a word.
    connection.auto_open = 0
    expected = None
    while True:
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        expected = expected or body
        if response.status != 200 or not body or body != expected:
            raise ValueError(f"status {response.status}, {len(body)} bytes")
        yield


def ask_cache():
    connection = socket.create_connection(("127.0.0.1", CACHE), timeout=180).makefile("rwb")

    def call(request, wanted):
        connection.write(request)
        connection.flush()
        for line in wanted:
            if (answer := connection.readline()) != line:
                raise ValueError(f"{answer}, expected {line}")

    number = 0
    while True:
        call(b"set key-%d 0 0 %d\r\n%d\r\n" % (number, len(str(number)), number), [b"STORED\r\n"])
        for known in {number, number // 2, 0}:
            size = len(str(known))
            call(b"get key-%d\r\n" % known, [b"VALUE key-%d 0 %d\r\n" % (known, size), b"%d\r\n" % known, b"END\r\n"])
        number += 1
        yield


def work(what):
    name, after, answers = what.__name__, 0, what()
    try:
        while after < AFTER and not problems:
            before = time.monotonic()
            next(answers)
            longest[name] = max(longest.get(name, 0), time.monotonic() - before)
            counts[name] = counts.get(name, 0) + 1
            after += os.path.exists(done)
            time.sleep(0.02)
    except (OSError, ValueError, http.client.HTTPException) as error:
        problems.append(f"{name}, after {counts.get(name, 0)} answers: {type(error).__name__}: {error}")


threads = [threading.Thread(target=work, args=(what,)) for what in (ask_web, ask_cache)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for name, count in counts.items():
    print(f"{name}: {count} answers, longest gap {longest[name]:.2f} s")
print(f"errors {len(problems)}")
print("\n".join(problems))
sys.exit(bool(problems))
