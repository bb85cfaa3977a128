"""A Hub to try things on by hand: starts it, prints what to paste into another shell, and shows every request."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.hub.loopback import LoopbackHub, faults
from tests.hub.loopback.environment import client_settings
from tests.hub.loopback.log import Exchange
from tests.hub.loopback.service import Service

_GREEN, _RED, _YELLOW, _CYAN, _MAGENTA = 32, 31, 33, 36, 35
_COLOURS = {2: _GREEN, 3: _CYAN, 4: _YELLOW}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [kind for kind, _ in options.fault if kind not in faults.KINDS]:
        parser.error(f"no such kind of fault: {unknown[0]!r}; there are: {', '.join(faults.KINDS)}")
    hub = LoopbackHub(
        options.folder,
        port=options.port,
        files_port=options.files_port,
        chunk_size=options.chunk_size,
        large_from=options.large_from,
        page_size=options.page_size,
        listener=lambda exchange: print(line(exchange, hub.service, colour=sys.stdout.isatty()), flush=True),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with hub:
        for kind, on in options.fault:
            hub.fault(faults.KINDS[kind], on)
        print(greeting(hub, options.folder / "home"), flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print(f"{hub.folder} keeps the repositories; start again to go on.")


def greeting(hub: LoopbackHub, home: Path) -> str:
    """The lines to paste, and what else there is to know."""
    settings = client_settings(hub.url, home.absolute(), hub.token("writer"))
    exports = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    tokens = [f"#   {name:10} {hub.token(name)}" for name in hub.service.accounts.names()]
    held = ", ".join(hub.repositories) or "none yet"
    about = [f"# Hub {hub.url}, file server {hub.files_url}; repositories: {held}", "# tokens:"]
    return "\n".join([*about, *tokens, "# paste into another shell:", *exports, ""])


def line(exchange: Exchange, service: Service, *, colour: bool) -> str:
    """One request: status, who, what, bytes in and out, fault; never the token itself."""

    def painted(text: str, code: int) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    token = exchange.token and service.accounts.known(exchange.token)
    who = token.name if token else ("unknown" if exchange.token else "-")
    target = exchange.target.partition("?signature=")[0]
    target = "".join(character if character.isprintable() else "?" for character in target)
    fault = f"  {painted(f'[{exchange.fault}]', _MAGENTA)}" if exchange.fault else ""
    status = painted(str(exchange.status or "---"), _COLOURS.get((exchange.status or 0) // 100, _RED))
    what = f"{exchange.server:5} {who:9} {exchange.method:6} {target}"
    return f"{status} {what}  in {exchange.size} out {exchange.answered}{fault}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.hub.loopback", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the repositories are kept")
    parser.add_argument("--port", type=int, default=0, help="of the Hub (any free one)")
    parser.add_argument("--files-port", type=int, default=0, help="of the file server (any free one)")
    parser.add_argument("--chunk-size", type=int, help="upload files larger than this in parts of this many bytes")
    parser.add_argument("--large-from", type=int, default=10 << 20, help="bytes from which LFS keeps a file (10 MiB)")
    parser.add_argument("--page-size", type=int, default=1000, help="entries on one page of a listing (1000)")
    parser.add_argument(
        "--fault",
        nargs=2,
        action="append",
        default=[],
        metavar=("KIND", "REGEX"),
        help=f"for the first request that matches; kinds: {', '.join(faults.KINDS)}",
    )
    return parser


if __name__ == "__main__":
    main()
