"""`starling demo` and `starling up` with fake nodes: `python fake_mesh.py demo|up FLAGS`."""

from __future__ import annotations

import sys
from pathlib import Path

import mesh.demo.app
import mesh.up
from mesh.errors import MeshError
from services.host import SettingsError

_FAKE_NODE = (sys.executable, str(Path(__file__).with_name("fake_node.py")))


def main() -> int:
    """Runs the command as the command line does; returns its exit status."""
    command, *flags = sys.argv[1:]
    run = {"demo": mesh.demo.app.main, "up": mesh.up.main}[command]
    try:
        return run(flags, node_command=_FAKE_NODE)
    except (MeshError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
