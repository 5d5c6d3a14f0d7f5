"""The command `samestyle serve`."""

import argparse
import socket
from contextlib import suppress
from pathlib import Path

from samestyle.console import Call
from samestyle.errors import UsageError


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    command.add_argument("--port", type=int, default=8000, help="0 for any free one (default: %(default)s)")
    command.add_argument(
        "--refresh-seconds", type=float, default=30.0, help="how often to look for a new release (default: %(default)s)"
    )
    command.add_argument("--cache", metavar="DIR", help="downloaded files (default: cache/ below paths.root)")
    command.add_argument(
        "--remote-photos",
        action="store_true",
        help="let browsers load photos without a thumbnail from the catalogue's http(s) addresses",
    )


def serve(call: Call) -> None:
    """Serve until interrupted. Raises UsageError where something is missing, or the port is taken."""
    try:
        import uvicorn

        from samestyle.web.application import Options, create_app
        from samestyle.web.shop import Shop
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed: install samestyle[web], which `serve` needs") from error
    arguments = call.arguments
    with listen(arguments.host, arguments.port) as listener:
        shop = Shop(call.store.uri, Path(arguments.cache or call.root / "cache"), call.channel)
        shop.warm()
        options = Options(max(0.0, arguments.refresh_seconds), arguments.remote_photos)
        config = uvicorn.Config(create_app(shop, options), log_level="warning", access_log=False, server_header=False)
        print(f"release {shop.manifest.release_id} at {address(listener)} (Ctrl-C ends)", flush=True)
        with suppress(KeyboardInterrupt):  # uvicorn has ended in order, and raises it once more
            uvicorn.Server(config).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """Before anything is loaded: a taken port is told at once. Raises UsageError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen at {host} port {port}: {error}; name another --host or --port") from error
    # Connections take it over. Else the end of each page waits 40 ms for the client to acknowledge what came before.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
