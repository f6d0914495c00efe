"""Serving the pages: on this machine for whoever sits at it, or to others who have accounts."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import uvicorn

from plaudit.collect import people
from plaudit.collect.arena import Policies
from plaudit.collect.web.app import create_app
from plaudit.errors import PlauditError
from plaudit.store import Store

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = ("0.0.0.0", "::")
BACKLOG = 1024


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    store: Store,
    *,
    host: str,
    port: int,
    names: Sequence[str],
    https: bool,
    say: Callable[[str], None],
    arenas: Mapping[str, Policies] | None = None,
) -> None:
    """Serve until Ctrl-C.

    host    an address of this machine; another than loopback needs at least one administrator's account
    names   by which browsers may reach it, besides the address
    https   behind a proxy that ends https: cookies are sent over https alone, and the proxy says who the visitor is
    arenas  campaign -> policies to talk with

    Raises PlauditError when the address is taken or is none of this machine's.
    """
    listener = _listen(host, port)
    port = listener.getsockname()[1]
    local = is_loopback(host) and not https
    token = secrets.token_urlsafe(24) if local else ""
    address = _address(host, port, names, https)
    if local:
        say(f"Open {address}/enter/{token}\nThe link is for you alone. Others need an account: plaudit people invite")
    elif not _has_admin(store):
        invitation = people.invite(store, "admin", actor="server", days=1)
        say(f"Nobody has an account yet. Make yours, within a day: {address}/join/{invitation}")
    if not local and not https:
        say("This server speaks plain http: passwords can be read on the way. Put it behind https, and say --https.")
    hosts = {*LOOPBACK, *names, *([host] if host not in ANY else _own_addresses())}
    app = create_app(store, hosts=hosts, secure=https, local_token=token, arenas=arenas)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, proxy_headers=False,  # see Guard
        server_header=False, date_header=False, timeout_graceful_shutdown=5, limit_concurrency=2000, backlog=BACKLOG,
    )  # fmt: skip
    say(f"Serving on {address}; Ctrl-C stops.")
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn raises it again once all requests are answered
        pass
    finally:
        listener.close()
    say("Stopped. Every judgment that was acknowledged is kept.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        with ExitStack() as unless_kept:
            unless_kept.callback(listener.close)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
            unless_kept.pop_all()
    except (OSError, OverflowError, ValueError, TypeError) as error:  # also a name that can be no host's
        raise PlauditError(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}. Choose another with "
            "--port or --host."
        ) from None
    return listener


def _address(host: str, port: int, names: Sequence[str], https: bool) -> str:
    """How a browser reaches the server: by its first name, else by the address, else by the machine's own name."""
    if https:
        return f"https://{names[0]}" if names else f"http://{host}:{port}"
    name = names[0] if names else socket.gethostname() if host in ANY else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"


def _own_addresses() -> list[str]:
    """Address of this machine, by its own name."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)] + [socket.gethostname()]
    except OSError:
        return []


def _has_admin(store: Store) -> bool:
    with store.database.reading() as connection:
        return any(
            person.role == "admin" and person.login and person.state != "closed"
            for person in people.everybody(connection)
        )
