"""A web server on localhost that answers as a model hub does, and misbehaves when told to."""

import contextlib
import hashlib
import http.server
import io
import json
import tarfile
import threading
import time
import urllib.parse


class Server:
    """Answers from a table; `asked` lists the paths that were asked for.

    pages: {path with its query: bytes, or (bytes, headers)}.
    trouble: {path: "stall" | "truncate" | "error"}: half of the content comes and then nothing,
      or the connection closes, or the answer is 500.
    """

    def __init__(self):
        self.pages, self.trouble, self.asked, self.slow = {}, {}, [], 0
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._stopped = threading.Event()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        """Nothing answers any more; closing twice is no mistake."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(table):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self._answer(body=False)

            def do_GET(self):
                table.asked.append(self.path)
                time.sleep(table.slow)
                self._answer(body=True)

            def _answer(self, body):
                found = table.pages.get(self.path)
                trouble = table.trouble.get(self.path) if body else None
                if found is None or trouble == "error":
                    self.send_response(404 if found is None else 500)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                content, headers = found if isinstance(found, tuple) else (found, {})
                start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Content-Length", str(len(content) - start))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if not body:
                    return
                if not trouble:
                    self.wfile.write(content[start:])
                    return
                self.wfile.write(content[start : max(start, len(content) // 2)])
                self.wfile.flush()
                if trouble == "stall":
                    table._stopped.wait(20)
                self.close_connection = True

            def log_message(self, *_):
                pass

        return Handler

    def add_repository(self, repository, files, revision="main"):
        """A repository as the Hugging Face hub shows it.

        files: {name: bytes}; safetensors are stored as large files.
        """
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        siblings = []
        for name, content in files.items():
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            sibling = {"rfilename": name, "size": len(content), "blobId": git}
            etag = git
            if name.endswith(".safetensors"):
                etag = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": etag, "size": len(content), "pointerSize": 134}
            siblings.append(sibling)
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit}
            for name_of_revision in (commit, revision):
                path = f"/{repository}/resolve/{name_of_revision}/{urllib.parse.quote(name)}"
                self.pages[path] = content, headers
        info = {"id": repository, "modelId": repository, "sha": commit, "siblings": siblings}
        info = json.dumps({**info, "tags": [], "private": False, "downloads": 0}).encode()
        answer = info, {"Content-Type": "application/json"}
        for path in ("", f"/revision/{revision}"):
            self.pages[f"/api/models/{repository}{path}?blobs=true"] = answer
            self.pages[f"/api/models/{repository}{path}?blobs=True"] = answer
        return commit


@contextlib.contextmanager
def running():
    server = Server()
    try:
        yield server
    finally:
        server.close()


def archive(folder, compression="gz"):
    """The bytes of a tar archive of a folder's content."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{compression}") as writer:
        writer.add(folder, ".")
    return content.getvalue()
