"""Asks for the status page all the time, as a neighbour on the wire and over HTTP, and receives messages: nothing may come but while
the network is held, and then all of it, with what it must say."""
import calendar, http.client, json, os, re, socket, struct, threading, time
from frames import OWN, OWN4, answers_ping, arp, ask_arp, ping, receive, tells_arp

PAGE4 = socket.inet_aton("10.0.2.16")
# How long nothing may come before the failure and after it, between two questions, and until HTTP gives up, in seconds.
SILENCE, EVERY, PATIENCE = 5, 0.25, 3
done, ready = os.environ["STEPS_DONE"], os.environ["READY"]
port = int(os.environ["FORWARD_1"])
problems = []
# What came over HTTP, by method, path and Accept: status, kind, body. How often nothing did.
pages, unanswered, ended = {}, 0, threading.Event()
QUESTIONS = [
    ("GET", "/status.json", "*/*"),
    ("GET", "/", "*/*"),
    ("GET", "/", "application/json"),
    ("HEAD", "/", "*/*"),
    ("POST", "/", "*/*"),
    ("GET", "/none", "*/*"),
]
documents = []


def ask_http():
    global unanswered
    number = 0
    while not ended.is_set():
        method, path, accept = question = QUESTIONS[number % len(QUESTIONS)]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request(method, path, headers={"Accept": accept})
            response = connection.getresponse()
            body = response.read().decode()
            pages[question] = (response.status, response.headers["Content-Type"], body, time.monotonic())
            if path == "/status.json":
                documents.append(json.loads(body))
            number += 1
        except (OSError, http.client.HTTPException):
            unanswered += 1
        finally:
            connection.close()
        ended.wait(EVERY)


def look_at_pages():
    for question in QUESTIONS:
        if question not in pages:
            problems.append(f"no answer to {question}")
            continue
        (method, path, accept), (status, kind, body, _) = question, pages[question]
        wanted = {"POST": 405}.get(method, 404 if path == "/none" else 200)
        if status != wanted:
            problems.append(f"{question}: {status}")
        if re.search(r"0x|[0-9a-f]{12}", body):
            problems.append(f"{question}: an address in {body}")
        if method == "HEAD" and body:
            problems.append(f"{question}: with a body")
        if wanted == 200 and ("json" in path + accept) != kind.startswith("application/json"):
            problems.append(f"{question}: {kind}")
    text = pages.get(QUESTIONS[1], (0, "", "", 0))[2]
    print(text)
    for line in (r"cause: panic on CPU \d", r"failed: 6\.\d+\.", r"starting: 6\.\d+\..*attempt 1", r"processes: [1-9]\d* salvaged"):
        if not re.search(line, text):
            problems.append(f"the page lacks {line}")


def look_at_documents():
    for document in documents:
        steps, cause, failed = document["steps_ms"], document["cause"], document["failed"]
        named = cause == "panic" and failed.startswith("6.") and document["starting"].startswith("6.")
        counted = document["failover"] == document["attempt"] == 1 and document["processes"]["salvaged"] > 0
        if not named or not counted or steps["stopped"] != 0 or document["step"] not in steps:
            problems.append(f"wrong: {document}")
    times = [document["since_stop_ms"] for document in documents]
    if len(times) < 2 or sorted(set(times)) != times:
        problems.append(f"times do not go on: {times}")


def look_at_messages():
    told = "\n".join(messages)
    print(told)
    for line in messages:
        match = re.fullmatch(r"<(2[789]|30)>1 (\S+Z) 10\.0\.2\.16 orthros - - - failover 1: .*", line)
        if not match or re.search(r"0x|[0-9a-f]{12}", line):
            problems.append(f"no message: {line}")
        elif abs(calendar.timegm(time.strptime(match[2][:19], "%Y-%m-%dT%H:%M:%S")) - time.time()) > 3600:
            problems.append(f"another time: {line}")
    for line in (r"the kernel 6\.\S+ failed: panic", "step stopped, 0 ms after the stop", "step salvaged", "attempt 1: the kernel 6"):
        if not re.search(line, told):
            problems.append(f"no message has {line}")


threading.Thread(target=ask_http, daemon=True).start()
start, due, until, number, mac, messages = time.monotonic(), 0.0, None, 0, None, []
# Since when everything must be silent, and how often what was answered.
silent, asked, found, pinged = start, 0, 0, 0
while until is None or time.monotonic() < until:
    now = time.monotonic()
    if ready and now - start > SILENCE and unanswered:
        open(ready, "w").close()
        ready, silent = None, None
    if until is None and os.path.exists(done):
        until, silent = now + SILENCE, now
    if now >= due:
        due, number, asked = now + EVERY, number + 1, asked + 1
        ask_arp(PAGE4)
        if mac:
            ping(mac, PAGE4, number)
    frame = receive(0.05)
    if not frame:
        continue
    # The user network of QEMU pings this host for any address that it is asked for, and answers in its name.
    answers = tells_arp(frame, PAGE4), answers_ping(frame, PAGE4) and frame[6:12] == mac
    datagram = frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[26:34] == PAGE4 + OWN4
    if silent and (any(answers) or datagram):
        problems.append(f"an answer {now - silent:.1f} s into a time of silence")
    if answers[0]:
        mac, found = frame[6:12], found + 1
    pinged += answers[1]
    # Who is it that messages go to?
    if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[28:32] == PAGE4 and frame[38:42] == OWN4:
        arp(2, frame[6:12], PAGE4, frame[6:12])
    if datagram and frame[36:38] == struct.pack(">H", 514):
        length = struct.unpack(">H", frame[38:40])[0]
        messages.append(frame[42 : 34 + length].decode())
ended.set()
if any(pages[question][3] > until - SILENCE for question in pages):
    problems.append("a page after the hand-over")
if not found or not pinged:
    problems.append("the address was not found, or not answered pings")
print(f"asked {asked}, found {found}, pings {pinged}, pages {len(documents)} as JSON, HTTP unanswered {unanswered}")
look_at_pages()
look_at_documents()
look_at_messages()
print("\n".join(problems))
raise SystemExit(bool(problems))
