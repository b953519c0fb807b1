"""Waits in epoll_wait() for so many seconds and says whether it waited long enough: waiter.py SECONDS FILE"""

import os
import select
import sys
import time

seconds, name = float(sys.argv[1]), sys.argv[2]
open(name + ".started", "w").close()
start = time.monotonic()
select.epoll().poll(seconds)
waited = time.monotonic() - start
if waited < seconds:
    sys.exit(f"waited {waited} s of {seconds}")
with open(name + ".new", "w") as file:
    print("waited to the end", file=file)
os.rename(name + ".new", name)
