"""Serves the models of a repository on one machine, over gRPC."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from services.host import read_settings
from services.predict.settings import NodeSettings

_DESCRIPTION = (
    "Serves the models of a repository over gRPC: Predict and PredictStream natively, "
    "ModelService, health and reflection beside them, Prometheus metrics on a second port. "
    "Prints one line beginning with `ready` once every model is warm. SIGTERM drains."
)

_EXAMPLES = (
    "starling node --repository ~/.cache/starling/models --model nanodet",
    "starling node --repository /models --name edge-3 --grpc 10.0.0.7:8001 --control 10.0.0.2:18000",
)


def main(argv: Sequence[str]) -> int:
    """Runs a node until SIGTERM or SIGINT; returns 0 when every admitted request was answered."""
    settings = read_settings(
        NodeSettings, argv, os.environ, prog="starling node", description=_DESCRIPTION, examples=_EXAMPLES
    )
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format=f"%(asctime)s {settings.name} %(levelname)s %(message)s",
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # gRPC's own log repeats, less clearly, what our errors say; it reads this when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from services.predict.process import NodeProcess

    with NodeProcess(settings) as node:
        node.serve(stop)
    return node.exit_code
