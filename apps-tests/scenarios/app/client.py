"""Three guests write into the book, each over a connection of its own, and expect it to count."""
import http.client, os, sys, threading, time

PORT, GUESTS = int(sys.argv[1]), 3
# So many answers are wanted by each guest after the last step.
AFTER = 30
done = os.environ["STEPS_DONE"]
problems, longest, counts = [], 0.0, {}


def write(guest):
    global longest
    connection, after = http.client.HTTPConnection("127.0.0.1", PORT, timeout=180), 0
    try:
        connection.connect()
        # One that was closed stays closed, instead of being opened again without a word.
        connection.auto_open = 0
        while after < AFTER and not problems:
            before = time.monotonic()
            connection.request("POST", f"/{guest}", f"entry {counts.get(guest, 0)} of {guest}")
            response = connection.getresponse()
            body = response.read()
            longest = max(longest, time.monotonic() - before)
            counts[guest] = counts.get(guest, 0) + 1
            if response.status != 200 or int(body) != counts[guest]:
                raise ValueError(f"status {response.status}, {body}, and there must be {counts[guest]} entries")
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
