"""A server that answers as it is told to and notes what it heard: for what a real one does too seldom to wait for."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StandIn:
    """Every heartbeat is answered with `order`; a report with what `answers` has for its verb, else with 200.

    A 429 asks to be left alone for a second.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self.order: dict[str, Any] = {"command": "continue", "status": "running", "attempt": 1}
        self.answers: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        stand_in = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                verb = self.path.rsplit("/", 1)[1]
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                stand_in.heard.append((verb, body))
                status, answer = 200, stand_in.order if verb == "heartbeat" else {"status": "running", "attempt": 1}
                if stand_in.answers.get(verb):
                    status, answer = stand_in.answers[verb].pop(0)
                self._answer(status, answer)

            def do_GET(self) -> None:
                self._answer(200, {"events": [], "cursor": 0})

            def _answer(self, status: int, body: dict[str, Any]) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("retry-after", "1")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def told(self, verb: str) -> list[dict[str, Any]]:
        return [body for name, body in self.heard if name == verb]

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
