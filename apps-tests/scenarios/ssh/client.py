"""A session of ssh: a shell with a running command, `cat` with a stream, or tmux with a counter in its first window."""
import os, pty, re, select, signal, subprocess, sys, time

KIND, PORT = sys.argv[1:3]
# So many numbers are wanted after the last step.
AFTER = 30
# Seconds between two ticks of the shell. bash itself may lose an interrupt that comes while it starts a command, or read from a
# terminal that it has not got back yet and log out: so the interrupt comes in the middle of a pause.
PAUSE = 0.6
COUNT = "n=0; while :; do echo tick $n; n=$((n+1)); sleep %s; done"
SSH = ["ssh", "-p", PORT, "-F", "none", "-o", "LogLevel=ERROR", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
HOST = ["root@127.0.0.1"]
done = os.environ["STEPS_DONE"]
# Seconds without a sign of life that are too many.
PATIENCE = 240


class Terminal:
    """ssh in a terminal of its own."""

    def __init__(self, command):
        self.child, self.fd = pty.fork()
        if self.child == 0:
            os.environ["TERM"] = "xterm"
            os.execvp("ssh", SSH + ["-tt"] + HOST + command)
        self.text, self.longest = "", 0.0

    def more(self):
        """Waits for more text."""
        before = time.monotonic()
        ready, _, _ = select.select([self.fd], [], [], PATIENCE)
        try:
            data = os.read(self.fd, 1 << 16) if ready else b""
        except OSError:
            data = b""
        if not data:
            raise ValueError(f"the session has ended or is silent, after {self.text[-300:]!r}")
        self.longest = max(self.longest, time.monotonic() - before)
        self.text += data.decode(errors="replace")

    def expect(self, pattern):
        """Waits for a pattern in what was not looked at yet."""
        while not (found := re.search(pattern, self.text)):
            self.more()
        self.text = self.text[found.end() :]
        return found

    def type(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        """The exit status of ssh."""
        try:
            while True:
                self.more()
        except ValueError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


def ticks(terminal, consecutive):
    """Follows the count until the failover is over."""
    last, after = -1, 0
    while after < AFTER:
        number = int(terminal.expect(r"tick (\d+)\r").group(1))
        if number <= last or consecutive and number != last + 1:
            raise ValueError(f"tick {number} after {last}")
        last = number
        after += os.path.exists(done)
    return last


def shell():
    terminal = Terminal([])
    terminal.expect(r"[#$] ")
    terminal.type("stty -echo; PS1='> '\n")
    terminal.expect("> ")
    terminal.type(COUNT % PAUSE + "\n")
    last = ticks(terminal, True)
    time.sleep(PAUSE / 2)
    # The interrupt is for the foreground group.
    terminal.type("\x03")
    terminal.expect("> ")
    terminal.type("echo the $n end\n")
    end = int(terminal.expect(r"the (\d+) end").group(1))
    if end <= last:
        raise ValueError(f"{end} after tick {last}")
    terminal.type("exit 7\n")
    if (status := terminal.end()) != 7:
        raise ValueError(f"exit status {status}")
    print(f"{last + 1} ticks, longest gap {terminal.longest:.2f} s, errors 0")


def tmux():
    terminal = Terminal([f"exec tmux new-session -s work -n counter '{COUNT % 0.1}'"])
    last = ticks(terminal, False)
    # Away from the session, which goes on.
    terminal.type("\x02d")
    terminal.expect(r"detached \(from session work\)")
    if (status := terminal.end()) != 0:
        raise ValueError(f"exit status {status}")
    print(f"up to tick {last}, longest gap {terminal.longest:.2f} s, errors 0")


def stream():
    child = subprocess.Popen(SSH + HOST + ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    number, after, longest = 0, 0, 0.0
    while after < AFTER:
        line, before = (b"%d " % number) * 2000 + b"\n", time.monotonic()
        child.stdin.write(line)
        child.stdin.flush()
        if (answer := child.stdout.readline()) != line:
            raise ValueError(f"line {number}: {len(answer)} bytes {answer[:60]!r}")
        longest = max(longest, time.monotonic() - before)
        number += 1
        after += os.path.exists(done)
        time.sleep(0.05)
    child.stdin.close()
    if child.stdout.read() or child.wait() != 0:
        raise ValueError("another end")
    print(f"{number} lines there and back, longest gap {longest:.2f} s, errors 0")


signal.signal(signal.SIGPIPE, signal.SIG_IGN)
try:
    {"shell": shell, "tmux": tmux, "stream": stream}[KIND]()
except (OSError, ValueError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
