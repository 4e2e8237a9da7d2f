"""Serving the page on this machine."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = "127.0.0.1"


def serve(page: Callable[[], str], port: int = 0) -> ThreadingHTTPServer:
    """A server of `page()`, made anew for every request, at `http://127.0.0.1:PORT/`, and of nothing else.

    Nobody but this machine reaches it. The caller runs it: `serve_forever`, and `server_close` afterwards.

    Args:
        port: 0 takes one that is free; the server's `server_port` tells which.

    Raises:
        OSError: if the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A page of another origin that has its name pointed here does not get to read this one.
            hosts = {f"{name}:{self.server.server_port}" for name in (ADDRESS, "localhost")}  # type: ignore[attr-defined]
            if self.path != "/" or self.headers.get("Host") not in hosts:
                self.send_error(404)
                return
            try:
                content = page().encode()
            except (ValueError, OSError) as error:
                self.send_error(500, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not worth a line."""

    return ThreadingHTTPServer((ADDRESS, port), Handler)
