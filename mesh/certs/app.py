"""Makes, renews and shows development certificates, and signs tokens for tenants."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich_argparse import RawDescriptionRichHelpFormatter

from mesh.certs.identity import Identity, Role
from mesh.certs.store import LIFETIME, LOCAL_HOSTS, CertStore, write_token
from mesh.certs.tokens import LIFETIME_MAX, Scope

DEFAULT_FOLDER = Path("out/certs")
_TRUST_DOMAIN = "starling"
_SOON = timedelta(days=7)
_LIFETIME_DAYS_MAX = 10_000
_EPILOG = """examples:
  starling certs init --node edge-1 --node cloud-1 --agent drone-7 --host gateway.example.com
  starling certs token --tenant acme --scope infer
  starling call raptor --ca out/certs/trust/ca.crt --cert out/certs/agent/drone-7/tls.crt \\
      --key out/certs/agent/drone-7/tls.key --token-file out/certs/tokens/acme.jwt \\
      --input obs=zeros:1x22:fp32 --input h=zeros:1x16:fp32
  starling certs rotate                 every certificate, while they are in use
  starling certs rotate node/edge-1     one of them
  starling certs show

For development: the authority's key lies unencrypted in DIR/ca, readable by you only. On a cluster let its own
authority fill the same files (tls.crt, tls.key, ca.crt); everything that reads them follows their replacement.
"""


def main(argv: Sequence[str]) -> int:
    """Runs `starling certs` and returns its exit status: 0 done, 2 wrong usage.

    Raises:
        CertsError: says what was found and what to do; the command line prints it.
    """
    arguments = _build_parser().parse_args(argv)
    store, now, console = CertStore(arguments.dir), datetime.now(UTC), Console(soft_wrap=True)
    match arguments.command:
        case "init":
            return _init(arguments, store, now, console)
        case "issue":
            hosts = arguments.host or (LOCAL_HOSTS if arguments.holder.role.serves else ())
            folder = store.issue(arguments.holder, now, hosts=hosts, lifetime=arguments.days)
            console.print(f"issued {arguments.holder} in {folder}", highlight=False)
        case "rotate":
            return _rotate(arguments, store, now, console)
        case "show":
            console.print(build_table(store, now))
        case "token":
            return _sign(arguments, store, now, console)
    return 0


def _init(arguments: argparse.Namespace, store: CertStore, now: datetime, console: Console) -> int:
    store.create(arguments.trust_domain, now, replace=arguments.replace_ca)
    hosts = (*LOCAL_HOSTS, *arguments.host)
    for holder in (Identity(Role.GATEWAY, "gateway"), Identity(Role.CONTROL, "control"), *map(_node, arguments.node)):
        store.issue(holder, now, hosts=hosts if holder.role is not Role.NODE else (*LOCAL_HOSTS, holder.name))
    for holder in (Identity(Role.ADMIN, "admin"), *map(_agent, arguments.agent)):
        store.issue(holder, now)
    console.print(build_table(store, now))
    return 0


def _rotate(arguments: argparse.Namespace, store: CertStore, now: datetime, console: Console) -> int:
    if arguments.signing_key:
        store.rotate_signing_key(now)
        console.print("tokens are signed with a new key; those of the one before still count", highlight=False)
        return 0
    renewed = store.rotate(now, only=arguments.holders, lifetime=arguments.days)
    console.print(f"renewed {', '.join(map(str, renewed)) or 'nothing: no certificate was issued'}", highlight=False)
    return 0


def _sign(arguments: argparse.Namespace, store: CertStore, now: datetime, console: Console) -> int:
    token = store.sign_token(
        subject=arguments.subject or arguments.tenant,
        tenant=arguments.tenant,
        scopes=[Scope(word) for word in arguments.scope or [Scope.INFER]],
        now=now,
        lifetime=arguments.hours,
    )
    if str(arguments.out) == "-":
        print(token)
        return 0
    path = arguments.out or store.root / "tokens" / f"{Identity(Role.AGENT, arguments.tenant).name}.jwt"
    write_token(path, token)
    console.print(f"wrote {path}, good until {now + arguments.hours:%Y-%m-%d %H:%M} UTC", highlight=False)
    return 0


def build_table(store: CertStore, now: datetime) -> Table:
    """Returns who holds which certificate and how long it is still good."""
    title = f"{store.root}, identities spiffe://{store.trust_domain}/HOLDER"
    table = Table("holder", "ends (UTC)", "left", "proves", title=title, title_justify="left", box=SIMPLE)
    for one in store.list():
        left = one.end - now
        colour = "red" if left <= timedelta(0) else "yellow" if left < _SOON else "green"
        days, hours = left.days, left.seconds // 3600
        shown = "expired" if left <= timedelta(0) else f"{days} d" if days else f"{hours} h"
        table.add_row(one.name, f"{one.end:%Y-%m-%d %H:%M}", f"[{colour}]{shown}[/]", ", ".join(one.hosts))
    return table


def _build_parser() -> argparse.ArgumentParser:
    looks: Any = {"formatter_class": RawDescriptionRichHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(prog="starling certs", description=__doc__, epilog=_EPILOG, **looks)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about, **looks)
        command.add_argument(
            "--dir", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="folder of it all (default: %(default)s)"
        )
        return command

    init = add("init", "make an authority, a key for tokens, and the first certificates")
    init.add_argument(
        "--trust-domain",
        default=_TRUST_DOMAIN,
        metavar="NAME",
        help="what identities begin with (default: %(default)s)",
    )
    init.add_argument("--node", action="append", default=[], metavar="NAME", help="node to issue for, repeatable")
    init.add_argument("--agent", action="append", default=[], metavar="ID", help="agent to issue for, repeatable")
    init.add_argument(
        "--host", action="append", default=[], metavar="HOST", help="name or address of the gateway, beside localhost"
    )
    init.add_argument(
        "--replace-ca", action="store_true", help="when there is an authority: make a new one, issue everything anew"
    )
    issue = add("issue", "issue one certificate")
    issue.add_argument("holder", type=Identity.parse, metavar="ROLE/NAME", help="such as node/edge-2 or agent/drone-7")
    issue.add_argument(
        "--host", action="append", default=[], metavar="HOST", help="name or address of a server (default: localhost)"
    )
    rotate = add("rotate", "replace certificates and keys while they are in use")
    rotate.add_argument("holders", nargs="*", type=Identity.parse, metavar="ROLE/NAME", help="which (default: all)")
    rotate.add_argument("--signing-key", action="store_true", help="replace the key that signs tokens instead")
    for one in (issue, rotate):
        one.add_argument(
            "--days", type=_days, default=LIFETIME, metavar="N", help=f"good for N days (default: {LIFETIME.days})"
        )
    add("show", "show every certificate and when it ends")
    token = add("token", "sign a token for a tenant")
    token.add_argument("--tenant", required=True, metavar="NAME", help="who pays; nodes see it as x-tenant")
    token.add_argument(
        "--scope",
        action="append",
        choices=[scope.value for scope in Scope],
        help="what it allows, repeatable (default: infer)",
    )
    token.add_argument("--subject", default="", metavar="NAME", help="who it is for (default: the tenant)")
    token.add_argument(
        "--hours",
        type=_hours,
        default=timedelta(hours=1),
        metavar="N",
        help=f"good for N hours, at most {LIFETIME_MAX.days * 24} (default: 1)",
    )
    token.add_argument(
        "--out", type=Path, metavar="FILE", help="where to; - prints it (default: DIR/tokens/TENANT.jwt)"
    )
    return parser


def _node(name: str) -> Identity:
    return Identity(Role.NODE, name)


def _agent(name: str) -> Identity:
    return Identity(Role.AGENT, name)


def _days(text: str) -> timedelta:
    return timedelta(days=_number(text))


def _hours(text: str) -> timedelta:
    return timedelta(hours=_number(text))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _LIFETIME_DAYS_MAX:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number above 0")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
