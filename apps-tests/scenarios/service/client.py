"""Asks for the same page over one connection again and again, and expects the same answer each time."""
import http.client, os, sys, time

# So many answers are wanted after the last step.
AFTER = 50
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=120)
answers, after, longest, expected, local = 0, 0, 0.0, None, None
while after < AFTER:
    before = time.monotonic()
    connection.request("GET", "/index.lighttpd.html")
    # http.client would open another connection without a word.
    name = connection.sock.getsockname()
    local = local or name
    if name != local:
        sys.exit(f"another connection after {answers} answers")
    response = connection.getresponse()
    body = response.read()
    expected = expected or body
    if response.status != 200 or body != expected or not body:
        sys.exit(f"answer {answers}: status {response.status}, {len(body)} bytes")
    longest = max(longest, time.monotonic() - before)
    answers += 1
    after += os.path.exists(os.environ["STEPS_DONE"])
    time.sleep(0.05)
print(f"{answers} answers over one connection, the slowest after {longest:.2f} s")
