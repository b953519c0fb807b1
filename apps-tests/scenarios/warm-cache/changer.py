"""Changes a file all the time, lets its pages go, and reads them again: nobody may ever see what was there before."""

import os
import sys
import time

PAGE = 4096
PAGES = 512

path, stop = sys.argv[1:]
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
os.pwrite(fd, bytes(PAGE * PAGES), 0)
os.fsync(fd)
model = [bytes(PAGE)] * PAGES
rounds = 0
wrong = 0
while not os.path.exists(stop):
    # All pages come into the cache.
    wrong += os.pread(fd, PAGE * PAGES, 0) != b"".join(model)
    for page in range(rounds % 7, PAGES, 7):
        model[page] = b"%016d" % (rounds + 1) * (PAGE // 16)
        os.pwrite(fd, model[page], page * PAGE)
        if page % 5 == 0:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            wrong += os.pread(fd, PAGE, page * PAGE) != model[page]
    rounds += 1
    if rounds == 3:
        os.close(os.open("/var/warm/ready", os.O_CREAT | os.O_WRONLY, 0o644))
    time.sleep(0.01)
with open("/var/warm/result.new", "w") as result:
    result.write("right" if not wrong else f"{wrong} times old")
    result.write(f" in {rounds} rounds\n")
os.rename("/var/warm/result.new", "/var/warm/result")
