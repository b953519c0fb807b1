"""Knocks at a port that speaks first to whom it lets in, and that nobody may reach. Every knock goes on until the end: what asks
for a connection asks again. Argument: port."""
import os, selectors, socket, sys, time

PORT, EVERY, AFTER = int(sys.argv[1]), 0.25, 10
done, ready = os.environ["STEPS_DONE"], os.environ["READY"]
selector, knocks, answers, due, since = selectors.DefaultSelector(), 0, 0, 0.0, None
while since is None or time.monotonic() < since + AFTER:
    now = time.monotonic()
    if since is None and os.path.exists(done):
        since = now
    if now >= due:
        knock = socket.socket()
        knock.setblocking(False)
        knock.connect_ex(("127.0.0.1", PORT))
        selector.register(knock, selectors.EVENT_READ)
        knocks, due = knocks + 1, now + EVERY
    for key, _ in selector.select(EVERY):
        try:
            answers += bool(key.fileobj.recv(1))
        except OSError:
            pass
        # Closed by the network in between, which has given it up.
        selector.unregister(key.fileobj)
        key.fileobj.close()
    if ready and knocks >= 8:
        open(ready, "w").close()
        ready = None
print(f"{knocks} knocks, {answers} answered")
sys.exit(bool(answers) or knocks < 40)
