"""A small notes service: GET / lists the notes, POST / adds one. The notes live in /data/notes.txt."""
import http.server
import json
import os
import pathlib
import sys
import urllib.request

HERE = pathlib.Path(__file__).parent
NOTES = pathlib.Path(os.environ.get("NOTES", "/data/notes.txt"))


def page(notes):
    greeting = json.loads((HERE / "settings.json").read_text())["greeting"]
    return (HERE / "templates" / "page.txt").read_text().format(greeting=greeting, notes="".join(notes), count=len(notes))


def read_notes():
    return NOTES.read_text().splitlines(keepends=True) if NOTES.exists() else []


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, page(read_notes()))

    def do_POST(self):
        length = min(int(self.headers.get("Content-Length", 0)), 4096)
        with NOTES.open("a") as file:
            file.write(self.rfile.read(length).decode() + "\n")
        self.answer(201, "kept\n")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    port = int(os.environ.get("PORT", "8000"))
    word = sys.argv[1] if len(sys.argv) > 1 else "--serve"
    if word == "--self-test":
        assert "1 notes" in page(["x\n"])
    elif word == "--check":
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read()
    elif word == "--serve":
        server = http.server.ThreadingHTTPServer(("", port), Handler)
        print(f"notes listens on port {port} as user {os.getuid()}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("notes stops", flush=True)
    else:
        sys.exit(f"notes: unknown word {word}")


main()
