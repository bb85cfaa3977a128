"""The sockets: requests read whole, answers written in one piece, faults in between."""

from __future__ import annotations

import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from tests.hub.loopback.faults import NOTHING, Fault, Faults
from tests.hub.loopback.log import BODY_LIMIT, Exchange, Log
from tests.hub.loopback.messages import CHUNK, Answer, Refusal, Request, Server

_PLAIN = Fault("")


class Listener(ThreadingHTTPServer):
    """One of the two servers, on 127.0.0.1; it ends its connections when it is closed.

    Args:
        name: which of the two.
        port: 0 for any that is free.
        respond: from a request to its answer.
    """

    request_queue_size = 64

    def __init__(self, name: Server, port: int, respond: Callable[[Request], Answer], faults: Faults, log: Log) -> None:
        self.name, self.respond, self.faults, self.log = name, respond, faults, log
        self.closing = threading.Event()
        self.problems: list[BaseException] = []
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(("127.0.0.1", port), _Connection)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """As the parent's, without asking the network for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address), daemon=True)
        self._connections[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may hang up whenever they like; anything else is an error of this program's own."""
        problem = sys.exc_info()[1]
        if problem is not None and not isinstance(problem, OSError):
            self.problems.append(problem)

    def drain(self) -> None:
        """Wait until every connection opened so far has ended, answered or not; the clients must have hung up.

        Raises:
            TimeoutError: one is still open.
        """
        # Connections are accepted in their order: once this one is, so are all before it.
        with socket.create_connection(("127.0.0.1", self.server_port), timeout=60) as last:
            last.shutdown(socket.SHUT_WR)
            last.recv(1)
        for thread in list(self._connections.values()):
            thread.join(60)
            if thread.is_alive():
                raise TimeoutError(f"{self.name}: a client holds its connection")

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        for connection, thread in list(self._connections.items()):
            with suppress(OSError):  # it may be closed already
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()
        self._thread.join()


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "loopback"
    sys_version = ""
    wbufsize = 1 << 16  # a small answer leaves in one segment: two would wait 40 ms for each other
    disable_nagle_algorithm = True
    server: Listener

    def log_message(self, format: str, *arguments: Any) -> None:
        """`Log` keeps the requests."""

    def do_GET(self) -> None:
        request = Request(
            server=self.server.name,
            method=self.command,
            target=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=(body := self._read_body()),
            size=body.seek(0, 2),
        )
        body.seek(0)
        exchange = Exchange(
            request.server, request.method, request.target, request.headers, body.read(BODY_LIMIT), request.size
        )
        body.seek(0)
        self.server.log.open(exchange)
        try:
            self._serve(request, exchange)
        finally:
            body.close()
            self.server.log.close(exchange)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _read_body(self) -> BinaryIO:
        body = cast(BinaryIO, SpooledTemporaryFile(max_size=BODY_LIMIT))  # noqa: SIM115  (`do_GET` closes it)
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self._copy(body, size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            self._copy(body, int(self.headers.get("Content-Length") or 0))
        return body

    def _copy(self, body: BinaryIO, size: int) -> None:
        while size:
            if not (chunk := self.rfile.read(min(CHUNK, size))):
                raise ConnectionError("the client hung up within its request")
            body.write(chunk)
            size -= len(chunk)

    def _serve(self, request: Request, exchange: Exchange) -> None:
        fault = self.server.faults.meet(request) or _PLAIN
        exchange.fault = fault.name or None
        if fault.delay and self.server.closing.wait(fault.delay):
            raise ConnectionError("the server is closing")
        answer = fault.instead or (self._respond(request) if fault.applied else Answer())
        if fault.send == NOTHING:
            self.close_connection = True
            return
        self._write(fault.change(answer), fault.send, exchange)

    def _respond(self, request: Request) -> Answer:
        """An error of this program's own is a 500 for the client and kept for `LoopbackHub.close` to raise."""
        try:
            return self.server.respond(request)
        except Exception as problem:
            self.server.problems.append(problem)
            return Refusal(500, f"loopback: {problem!r}").answer()

    def _write(self, answer: Answer, send: int | None, exchange: Exchange) -> None:
        exchange.status = answer.status
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value.encode().decode("latin-1"))
        has_body = self.command != "HEAD" and len(answer.body) > 0
        if send is None or has_body:
            self.end_headers()
        if has_body:
            left = len(answer.body) if send is None else send
            for chunk in answer.chunks():
                exchange.answered += len(chunk[:left])
                self.wfile.write(chunk[:left])
                self.wfile.flush()
                if not (left := left - len(chunk[:left])):
                    break
        if send is not None:
            self.close_connection = True
        self.wfile.flush()
