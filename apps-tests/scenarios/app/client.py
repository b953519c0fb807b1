"""Three guests write into the book, each over a connection of its own, and expect it to count.

usage: client.py PORT [FORM]   with the path of a form each is in a session, which is to count as well
"""
import http.client, os, sys, threading, time

PORT, GUESTS = int(sys.argv[1]), 3
FORM = sys.argv[2] if len(sys.argv) > 2 else None
# So many answers are wanted by each guest after the last step.
AFTER = 30
done = os.environ["STEPS_DONE"]
problems, longest, counts = [], 0.0, {}


def ask(connection, guest, number, cookie):
    """Sends an entry."""
    if FORM is None:
        return connection.request("POST", f"/{guest}", f"entry {number} of {guest}")
    headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"Cookie": cookie} if cookie else {})
    connection.request("POST", FORM, f"text=entry+{number}+of+{guest}", headers)


def is_right(body, count):
    return int(body) == count if FORM is None else body == b"%d %d\n" % (count, count)


def write(guest):
    global longest
    connection, after, cookie = http.client.HTTPConnection("127.0.0.1", PORT, timeout=180), 0, None
    try:
        connection.connect()
        # One that was closed stays closed, instead of being opened again without a word.
        connection.auto_open = 0
        while after < AFTER and not problems:
            before = time.monotonic()
            ask(connection, guest, counts.get(guest, 0), cookie)
            response = connection.getresponse()
            body = response.read()
            longest = max(longest, time.monotonic() - before)
            counts[guest] = counts.get(guest, 0) + 1
            cookie = cookie or response.getheader("Set-Cookie", "").split(";")[0]
            if response.status != 200 or not is_right(body, counts[guest]):
                raise ValueError(f"status {response.status}, {body[:200]}, and there must be {counts[guest]} entries")
            after += os.path.exists(done)
            time.sleep(0.01)
    except (OSError, ValueError, http.client.HTTPException) as error:
        problems.append(f"guest {guest}, after {counts.get(guest, 0)} entries: {type(error).__name__}: {error}")


threads = [threading.Thread(target=write, args=(n,)) for n in range(1, GUESTS + 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{sum(counts.values())} entries over {GUESTS} connections, longest gap {longest:.2f} s, errors {len(problems)}")
print("\n".join(problems))
sys.exit(bool(problems))
