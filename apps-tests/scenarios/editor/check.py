"""Types into the editor, and judges what its screen shows."""
import os, sys, time

FOLDER = "/var/lib/editor"
TEXT = [f"{n:02} The quick brown fox jumps over the lazy dog {n * 7919 % 1000}" for n in range(1, 21)]


def give(name, data):
    with open(f"{FOLDER}/{name}.new", "wb") as file:
        file.write(data)
        os.fsync(file.fileno())
    os.rename(f"{FOLDER}/{name}.new", f"{FOLDER}/{name}")


def screen(number):
    try:
        with open(f"{FOLDER}/screen-{number}") as file:
            return file.read().split("\n")
    except FileNotFoundError:
        return []


def expect(what, condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            newest = next((n for n in range(9, -1, -1) if screen(n)), 0)
            sys.exit("\n".join([f"never seen: {what}; screen {newest}:"] + screen(newest)))
        time.sleep(0.2)


def shows(number, lines):
    found = [line.rstrip() for line in screen(number)]
    return found[: len(lines)] == lines


def ready():
    expect("the editor", lambda: any("text" in line for line in screen(0)), 5)
    if not os.path.exists(f"{FOLDER}/type-1"):
        give("type-1", ("i" + "\r".join(TEXT)).encode())
    expect("the text", lambda: shows(1, TEXT) and any("INSERT" in line for line in screen(1)), 60)


def before():
    give("expected", open(f"{FOLDER}/screen-1", "rb").read())
    os.sync()


def verdict():
    assert not os.path.exists(f"{FOLDER}/text"), "the text has been saved"
    with open(f"{FOLDER}/expected") as file:
        expected = file.read().split("\n")
    # Leaves off inserting, and lets the editor draw everything once more.
    give("type-2", b"\x1b\x0c")
    redrawn = lambda: screen(2)[:-3] == expected[:-3] and "INSERT" not in screen(2)[-3]
    expect("the same screen, drawn again", redrawn)
    # The last line goes on; the first one goes away and comes back.
    give("type-3", b"A, and goes on\x1bggddp")
    text = [TEXT[1], TEXT[0]] + TEXT[2:-1] + [TEXT[-1] + ", and goes on"]
    expect("what was typed afterwards", lambda: shows(3, text))
    # The foreground group is told.
    give("size-4", b"40 80")
    expect("the screen in its new size", lambda: shows(4, text) and len(screen(4)) == 42)
    give("type-5", b":wq\r")
    expect("the end of the editor", lambda: os.path.exists(f"{FOLDER}/end"))
    with open(f"{FOLDER}/text") as file:
        saved = file.read()
    assert saved == "\n".join(text) + "\n", saved
    with open(f"{FOLDER}/end") as file:
        assert file.read() == "0"
    print("the screen is the same, keys are answered, the text is saved")


{"ready": ready, "before": before, "verdict": verdict}[sys.argv[1]]()
