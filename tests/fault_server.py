"""A chat endpoint on this machine that goes wrong in the ways that a test asks for, and counts what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMPLETION_TOKENS = 5


def good(text, *, usage=None, log_probs=None, finish="stop", **more):
    """The body of a regular answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish, **more}
    if log_probs is not None:
        choice["logprobs"] = log_probs
    return {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}


def status(code, body=None, **headers):
    """An error, as an action of the server; `Retry_After=3` is a header."""

    def act(handler):
        handler.reply(code, json.dumps(body or {"error": {"message": f"status {code}"}}).encode(), headers)

    return act


def raw(content, content_type="application/json"):
    """Whatever these bytes are, with status 200."""
    return lambda handler: handler.reply(200, content, {"Content-Type": content_type})


def answer(body):
    """This body, with status 200."""
    return lambda handler: handler.reply(200, json.dumps(body).encode(), {})


def hang(seconds):
    """Say nothing for so long, then break off."""

    def act(handler):
        handler.server.stopping.wait(seconds)
        handler.close_connection = True

    return act


def cut(handler):
    """Break off in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.wfile.flush()
    handler.connection.shutdown(2)
    handler.close_connection = True


def drip(handler):
    """A byte now and then, for ever: no single read takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    try:
        while not handler.server.stopping.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True


def drip_headers(handler):
    """The same before the answer has begun."""
    try:
        while not handler.server.stopping.wait(0.02):
            handler.wfile.write(b"H")
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with server.lock:
            server.asked[text] += 1
            server.bodies.append(body)
            server.paths.add(self.path)
            server.keys.append(self.headers.get("Authorization"))
            server.times.append(server.now())
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            if server.delay:
                server.stopping.wait(server.delay)
            action = server.plan(text, server.asked[text])
            if not action:
                usage = {"prompt_tokens": len(text), "completion_tokens": COMPLETION_TOKENS}
                action = answer(good(f"answer to {text}", usage=usage))
            action(self)
        finally:
            with server.lock:
                server.busy -= 1

    def reply(self, code, content, headers):
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class FaultServer(ThreadingHTTPServer):
    """`plan(text, times asked)` says what becomes of a request: an action above, or None for a regular answer."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.delay, self.now = (lambda text, count: None), 0.0, time.monotonic
        self.asked, self.bodies, self.paths, self.keys, self.times = Counter(), [], set(), [], []
        self.busy = self.busiest = 0
        self.lock, self.stopping = threading.Lock(), threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        """Clients that leave are what tests are about."""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.shutdown()
        self.server_close()
