"""A terminal with vim in it. What to type comes from files, and what its screen shows goes to files.

/var/lib/editor/type-N is typed when type-N-1 has been answered; a file size-N in its place changes the size of the window.
/var/lib/editor/screen-N is what the screen showed then.
"""
import fcntl, os, pty, pyte, select, signal, struct, termios

FOLDER, ROWS, COLUMNS = "/var/lib/editor", 30, 100
os.makedirs(FOLDER, exist_ok=True)
os.chdir(FOLDER)
child, master = pty.fork()
if child == 0:
    os.environ["TERM"] = "linux"
    os.execvp("vim", ["vim", "-u", "NONE", "-i", "NONE", "-N", "text"])
screen = pyte.Screen(COLUMNS, ROWS)
stream = pyte.ByteStream(screen)


def resize(rows, columns):
    screen.resize(rows, columns)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def publish(name, text):
    with open(name + ".new", "w") as file:
        file.write(text)
    os.rename(name + ".new", name)


resize(ROWS, COLUMNS)
number, shown = 0, None
while True:
    try:
        ready, _, _ = select.select([master], [], [], 0.3)
        if ready:
            data = os.read(master, 1 << 16)
            stream.feed(data)
            continue
    except OSError:
        break
    # Nothing has changed for a while.
    cursor = f"\n{screen.cursor.y},{screen.cursor.x}\n"
    if shown != (number, list(screen.display), cursor):
        shown = (number, list(screen.display), cursor)
        publish(f"screen-{number}", "\n".join(screen.display) + cursor)
    for kind in ("type", "size"):
        if os.path.exists(f"{kind}-{number + 1}"):
            number += 1
            text = open(f"{kind}-{number}", "rb").read()
            if kind == "type":
                os.write(master, text)
            else:
                resize(*map(int, text.split()))
_, status = os.waitpid(child, 0)
publish("end", str(status))
signal.pause()
