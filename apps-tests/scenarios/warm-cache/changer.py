"""Changes a file all the time, lets its pages go, and reads them again: nobody may ever see what was there before.

When the kernel is another one, the file is changed at once, before what was in its cache can come back, and is read only when
that is over.
"""

import os
import sys
import time

PAGE = 4096
PAGES = 512

path, stop = sys.argv[1:]


def boot_id():
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read()


def wait(seconds):
    """Ends early when the kernel is another one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if boot_id() != booted:
            return
        time.sleep(0.001)


booted = boot_id()
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
rounds = 0
wrong = 0
while not os.path.exists(stop):
    rounds += 1
    content = b"%016d" % rounds * (PAGE * PAGES // 16)
    os.pwrite(fd, content, 0)
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    if boot_id() != booted:
        booted = boot_id()
        time.sleep(4)
    wrong += os.pread(fd, PAGE * PAGES, 0) != content
    if rounds == 3:
        os.close(os.open("/var/warm/ready", os.O_CREAT | os.O_WRONLY, 0o644))
    # What was read is in the cache.
    wait(0.3)
with open("/var/warm/result.new", "w") as result:
    result.write("right" if not wrong else f"{wrong} times old")
    result.write(f" in {rounds} rounds\n")
os.rename("/var/warm/result.new", "/var/warm/result")
