"""Asks for a page over kept connections, and downloads a large file again and again, in plain and over TLS."""
import hashlib, http.client, os, ssl, sys, threading, time

PLAIN, TLS = map(int, sys.argv[1:3])
SIZE, PIECE = 32 << 20, 64 << 10
# Bytes a second of a download, so that each is under way for some seconds.
SPEED = 3 << 20
# So many answers are wanted on each kept connection after the last step, and one download that begins then.
AFTER = 50
done = os.environ["STEPS_DONE"]
problems, longest, counts = [], 0.0, {}
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE


def content():
    text, size = [], 0
    for number in range(1, 10_000_001):
        line = b"%d\n" % number
        text.append(line)
        size += len(line)
        if size >= SIZE:
            break
    return b"".join(text)[:SIZE]


EXPECTED = hashlib.sha256(content()).hexdigest()


def connect(tls):
    if tls:
        connection = http.client.HTTPSConnection("127.0.0.1", TLS, timeout=180, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", PLAIN, timeout=180)
    connection.connect()
    # One that was closed stays closed, instead of being opened again without a word.
    connection.auto_open = 0
    return connection


def count(what, before):
    global longest
    longest = max(longest, time.monotonic() - before)
    counts[what] = counts.get(what, 0) + 1


def ask(tls):
    connection, after, expected = connect(tls), 0, None
    while after < AFTER and not problems:
        before = time.monotonic()
        connection.request("GET", "/index.html")
        response = connection.getresponse()
        body = response.read()
        expected = expected or body
        if response.status != 200 or not body or body != expected:
            raise ValueError(f"status {response.status}, {len(body)} bytes")
        count("answers", before)
        after += os.path.exists(done)
        time.sleep(0.05)


def download(tls):
    connection, last = connect(tls), False
    while not last and not problems:
        last = os.path.exists(done)
        connection.request("GET", "/numbers")
        response, seen, got, start = connection.getresponse(), hashlib.sha256(), 0, time.monotonic()
        while True:
            before = time.monotonic()
            piece = response.read(PIECE)
            if not piece:
                break
            count("pieces", before)
            seen.update(piece)
            got += len(piece)
            time.sleep(max(0.0, min(1.0, start + got / SPEED - time.monotonic())))
        if response.status != 200 or got != SIZE or seen.hexdigest() != EXPECTED:
            raise ValueError(f"download: status {response.status}, {got} bytes, {seen.hexdigest()}")
        count("downloads", time.monotonic())


def work(what, tls):
    try:
        what(tls)
    except (OSError, ValueError, http.client.HTTPException) as error:
        problems.append(f"{what.__name__}, TLS {tls}: {type(error).__name__}: {error}")


threads = [threading.Thread(target=work, args=(what, tls)) for what in (ask, download) for tls in (False, True) for _ in "12"]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{counts.get('answers', 0)} answers, {counts.get('downloads', 0)} downloads of {SIZE} bytes, over 8 connections,"
      f" longest gap {longest:.2f} s, errors {len(problems)}")
print("\n".join(problems))
sys.exit(bool(problems))
