"""A client of NFS, version 3 over TCP (RFC 1813), that writes without sync.

It keeps what it has written until the server has committed it, and writes it again if the server's write verifier has
become another. A call without an answer is made again, with the same number, over a new connection. Any status but "ok" is
an error. When a file is committed its sum goes into the file "sums", for the guest to compare.
"""
import hashlib, os, socket, struct, sys, time

NFS, MOUNT = (100003, int(sys.argv[1])), (100005, int(sys.argv[2]))
LOOKUP, READ, WRITE, CREATE, COMMIT = 3, 6, 7, 8, 21
MNT = 1
BLOCK, BLOCKS, COMMIT_AFTER = 32 << 10, 64, 24
# Bytes a second: nothing is removed, and the disk has to last.
SPEED = 4 << 20
# So many files are wanted that were begun after the last step.
AFTER = 3
done = os.environ["STEPS_DONE"]
# Seconds without an answer that are too many.
PATIENCE = 240
figures = {"calls": 0, "connections": 0, "repeated": 0, "written again": 0, "longest": 0.0}


def opaque(data):
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


class Answer:
    """What was answered, taken from the front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def number(self):
        self.at += 4
        return struct.unpack_from(">I", self.data, self.at - 4)[0]

    def fixed(self, size):
        self.at += size + -size % 4
        return self.data[self.at - size - -size % 4 :][:size]

    def opaque(self):
        return self.fixed(self.number())

    def attributes(self):
        """post_op_attr"""
        if self.number():
            self.fixed(84)

    def weak(self):
        """wcc_data"""
        if self.number():
            self.fixed(24)
        self.attributes()


class Server:
    """A program of the server, over one connection at a time."""

    def __init__(self, program):
        (self.program, self.port), self.socket, self.number = program, None, int(time.time()) & 0x7FFFFFFF

    def connect(self):
        self.close()
        self.socket = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        figures["connections"] += 1

    def close(self):
        if self.socket:
            self.socket.close()
        self.socket = None

    def take(self, size):
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("the server has closed the connection")
            data += more
        return data

    def exchange(self, message):
        if not self.socket:
            self.connect()
        self.socket.sendall(struct.pack(">I", 0x80000000 | len(message)) + message)
        while True:
            answer, last = b"", False
            while not last:
                (head,) = struct.unpack(">I", self.take(4))
                last = bool(head & 0x80000000)
                answer += self.take(head & 0x7FFFFFFF)
            # An answer to a call that was made twice.
            if answer[:4] == message[:4]:
                return Answer(answer)

    def call(self, procedure, arguments):
        self.number += 1
        # AUTH_SYS as root.
        credentials = struct.pack(">I", 0) + opaque(b"client") + struct.pack(">III", 0, 0, 0)
        head = struct.pack(">IIIIII", self.number, 0, 2, self.program, 3, procedure)
        message = head + struct.pack(">I", 1) + opaque(credentials) + struct.pack(">II", 0, 0) + arguments
        begun = time.monotonic()
        while True:
            try:
                answer = self.exchange(message)
                break
            except OSError as error:
                if time.monotonic() - begun > PATIENCE:
                    raise ValueError(f"no answer: {error}")
                self.close()
                figures["repeated"] += 1
                time.sleep(0.2)
        figures["calls"] += 1
        figures["longest"] = max(figures["longest"], time.monotonic() - begun)
        answer.fixed(8)
        if answer.number() != 0:
            raise ValueError("the call was denied")
        answer.number(), answer.opaque()
        for what in ("the call was not accepted", f"procedure {procedure}"):
            if (status := answer.number()) != 0:
                raise ValueError(f"{what}: status {status}")
        return answer


nfs, mount = Server(NFS[0:2]), Server(MOUNT[0:2])


def create(directory, name):
    # UNCHECKED, mode 0644.
    settings = struct.pack(">IIIIIIII", 0, 1, 0o644, 0, 0, 0, 0, 0)
    answer = nfs.call(CREATE, opaque(directory) + opaque(name) + settings)
    if not answer.number():
        raise ValueError("no handle")
    return answer.opaque()


def write(handle, offset, data):
    answer = nfs.call(WRITE, opaque(handle) + struct.pack(">QII", offset, len(data), 0) + opaque(data))
    answer.weak()
    count, _, verifier = answer.number(), answer.number(), answer.fixed(8)
    if count != len(data):
        raise ValueError(f"{count} bytes were written of {len(data)}")
    return verifier


def commit(handle):
    answer = nfs.call(COMMIT, opaque(handle) + struct.pack(">QI", 0, 0))
    answer.weak()
    return answer.fixed(8)


def content(number, block):
    seed = hashlib.sha256(b"%d %d" % (number, block)).digest()
    return seed * (BLOCK // len(seed))


def make_stable(handle, waiting):
    """Commits what is waiting: lists of offset, data and the verifier with which that was written last."""
    while waiting:
        verifier = commit(handle)
        waiting = [entry for entry in waiting if entry[2] != verifier]
        for entry in waiting:
            figures["written again"] += 1
            entry[2] = write(handle, entry[0], entry[1])


def append(handle, offset, data):
    make_stable(handle, [[offset, data, write(handle, offset, data)]])
    return offset + len(data)


def write_file(directory, name, blocks):
    """Writes a file without sync, commits it now and then, and returns its digest."""
    handle, waiting, digest = create(directory, name), [], hashlib.sha256()
    for index, data in enumerate(blocks):
        waiting.append([index * BLOCK, data, write(handle, index * BLOCK, data)])
        digest.update(data)
        time.sleep(BLOCK / SPEED)
        if len(waiting) == COMMIT_AFTER or index == len(blocks) - 1:
            make_stable(handle, waiting)
            waiting = []
    return digest.hexdigest()


def read_file(directory, name):
    answer = nfs.call(LOOKUP, opaque(directory) + opaque(name))
    handle, digest, offset = answer.opaque(), hashlib.sha256(), 0
    while True:
        answer = nfs.call(READ, opaque(handle) + struct.pack(">QI", offset, BLOCK))
        answer.attributes()
        answer.number()
        ended, data = answer.number(), answer.opaque()
        digest.update(data)
        offset += len(data)
        if ended:
            return digest.hexdigest()


try:
    root, sums, after = mount.call(MNT, opaque(b"/srv/nfs")).opaque(), {}, 0
    mount.close()
    listing, listed = create(root, b"sums"), 0
    while after < AFTER:
        number = len(sums)
        name = b"file-%d" % number
        sums[name] = write_file(root, name, [content(number, block) for block in range(BLOCKS)])
        listed = append(listing, listed, b"%s  %s\n" % (sums[name].encode(), name))
        after += os.path.exists(done)
    for name, digest in sums.items():
        if read_file(root, name) != digest:
            raise ValueError(f"{name.decode()} is not what was written")
except (OSError, ValueError) as error:
    sys.exit(f"{type(error).__name__}: {error}; {figures}")
print(f"{len(sums)} files of {BLOCK * BLOCKS} bytes, {figures['calls']} calls over {figures['connections']} connections,"
      f" {figures['repeated']} tried again, {figures['written again']} blocks written again,"
      f" longest gap {figures['longest']:.2f} s, errors 0")
