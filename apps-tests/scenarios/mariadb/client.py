"""Sells things: each sale is a transaction over one of several connections. In the end everything acknowledged must be there."""
import os, random, socket, struct, sys, threading, time

PORT, CONNECTIONS, ITEMS = int(sys.argv[1]), 4, 100
# So many transactions are wanted on each connection after the last step.
AFTER = 50
done = os.environ["STEPS_DONE"]
problems, longest, totals = [], 0.0, {}


class Database:
    """One connection, in the protocol of MySQL 4.1: packets of length (3 bytes), number and payload."""

    def __init__(self):
        self.socket = socket.create_connection(("127.0.0.1", PORT), timeout=240)
        self.file = self.socket.makefile("rb")
        self.receive()
        # CLIENT_LONG_PASSWORD, _CONNECT_WITH_DB, _PROTOCOL_41, _TRANSACTIONS, _SECURE_CONNECTION, _PLUGIN_AUTH.
        capabilities = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x80000
        # utf8mb4; no password.
        answer = struct.pack("<IIB23x", capabilities, 1 << 24, 45) + b"shop\0" + b"\0" + b"shop\0mysql_native_password\0"
        self.send(1, answer)
        self.expect_ok(self.receive())

    def send(self, number, payload):
        self.socket.sendall(struct.pack("<I", len(payload))[:3] + bytes([number]) + payload)

    def receive(self):
        head = self.file.read(4)
        if len(head) != 4:
            raise ValueError("the connection has ended")
        payload = self.file.read(int.from_bytes(head[:3], "little"))
        if payload[:1] == b"\xff":
            raise ValueError(payload[3:].decode(errors="replace"))
        return payload

    def expect_ok(self, payload):
        if payload[:1] != b"\0":
            raise ValueError(f"no acknowledgement: {payload!r}")

    def do(self, statement):
        global longest
        before = time.monotonic()
        self.send(0, b"\x03" + statement.encode())
        self.expect_ok(self.receive())
        longest = max(longest, time.monotonic() - before)

    def rows(self, query):
        self.send(0, b"\x03" + query.encode())
        columns = self.receive()[0]
        # Descriptions of the columns, up to an end.
        for _ in range(columns + 1):
            self.receive()
        rows = []
        while (packet := self.receive())[:1] != b"\xfe":
            row = []
            for _ in range(columns):
                row.append(packet[1 : 1 + packet[0]].decode())
                packet = packet[1 + packet[0] :]
            rows.append(row)
        return rows


def text(client, number):
    return f"sale {number} of {client}: " + str(number * 7919 % 100003) * 8


def sell(client):
    try:
        database, luck, sales, after = Database(), random.Random(client), [], 0
        while after < AFTER and not problems:
            number, item = len(sales), luck.randint(1, ITEMS)
            database.do("BEGIN")
            database.do(f"UPDATE stock SET sold = sold + 1, note = 'sold to {client}' WHERE id = {item}")
            database.do(f"INSERT INTO sales VALUES ({client}, {number}, {item}, '{text(client, number)}')")
            database.do("COMMIT")
            sales.append([str(number), str(item), text(client, number)])
            totals[client] = len(sales)
            after += os.path.exists(done)
            time.sleep(0.01)
        found = database.rows(f"SELECT number, item, text FROM sales WHERE client = {client} ORDER BY number")
        if found != sales:
            missing = [sale for sale in sales if sale not in found]
            raise ValueError(f"{len(sales)} acknowledged, {len(found)} there, missing {missing[:3]}")
    except (OSError, ValueError) as error:
        problems.append(f"connection {client}: {type(error).__name__}: {error}")


threads = [threading.Thread(target=sell, args=(n,)) for n in range(CONNECTIONS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{sum(totals.values())} transactions acknowledged over {CONNECTIONS} connections, all there, longest gap {longest:.2f} s,"
      f" errors {len(problems)}")
print("\n".join(problems))
sys.exit(bool(problems))
