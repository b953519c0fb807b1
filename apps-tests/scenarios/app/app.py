"""A guest book: POST /NUMBER adds an entry of a guest, GET /NUMBER counts that guest's. Each connection has a thread."""
import http.server, os, sqlite3, sys, threading

FILE = "/var/lib/book.db"
local = threading.local()


def database():
    if not hasattr(local, "database"):
        local.database = sqlite3.connect(FILE, timeout=120)
    return local.database


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        guest = int(self.path[1:])
        (entries,) = database().execute("SELECT COUNT(*) FROM book WHERE guest = ?", (guest,)).fetchone()
        body = b"%d\n" % entries
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer()

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with database() as book:
            book.execute("INSERT INTO book VALUES (?, ?)", (int(self.path[1:]), text))
        self.answer()

    def log_message(self, *_):
        pass


if sys.argv[1:] == ["check"]:
    print(database().execute("PRAGMA integrity_check").fetchone()[0], database().execute("SELECT COUNT(*) FROM book").fetchone()[0])
    sys.exit(database().execute("PRAGMA integrity_check").fetchone()[0] != "ok")
database().execute("CREATE TABLE book (guest INTEGER, text TEXT)")
database().commit()
http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
