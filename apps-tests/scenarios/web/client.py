"""Three guests write into the book, each over one connection and in one session, and expect both to count."""
import http.client, os, sys, threading, time

PORT, GUESTS = int(sys.argv[1]), 3
# So many answers are wanted by each guest after the last step.
AFTER = 30
done = os.environ["STEPS_DONE"]
problems, longest, counts = [], 0.0, {}


def write(guest):
    global longest
    connection, after, cookie = http.client.HTTPConnection("127.0.0.1", PORT, timeout=180), 0, None
    try:
        connection.connect()
        # One that was closed stays closed, instead of being opened again without a word.
        connection.auto_open = 0
        while after < AFTER and not problems:
            before = time.monotonic()
            headers = {"Content-Type": "application/x-www-form-urlencoded"} | ({"Cookie": cookie} if cookie else {})
            connection.request("POST", "/book.php", f"text=entry+{counts.get(guest, 0)}+of+{guest}", headers)
            response = connection.getresponse()
            body = response.read()
            longest = max(longest, time.monotonic() - before)
            counts[guest] = counts.get(guest, 0) + 1
            cookie = cookie or response.getheader("Set-Cookie", "").split(";")[0]
            wanted = b"%d %d\n" % (counts[guest], counts[guest])
            if response.status != 200 or body != wanted:
                raise ValueError(f"status {response.status}, {body[:200]}, and it must be {wanted}")
            after += os.path.exists(done)
            time.sleep(0.01)
    except (OSError, ValueError, http.client.HTTPException) as error:
        problems.append(f"guest {guest}, after {counts.get(guest, 0)} entries: {type(error).__name__}: {error}")


threads = [threading.Thread(target=write, args=(n,)) for n in range(1, GUESTS + 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{sum(counts.values())} entries over {GUESTS} connections and sessions, longest gap {longest:.2f} s, errors {len(problems)}")
print("\n".join(problems))
sys.exit(bool(problems))
