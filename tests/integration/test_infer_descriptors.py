"""Our proto of the Open Inference Protocol is that of the clients in use, field by field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.clients import install_clients

REPOSITORY = Path(__file__).resolve().parents[2]
METHODS = 20


def test_every_message_field_value_and_method_is_that_of_tritonclient() -> None:
    theirs = json.loads(install_clients().run("triton_descriptors.py"))
    script = REPOSITORY / "tests/clients/triton_descriptors.py"
    ours = json.loads(subprocess.check_output([sys.executable, script, REPOSITORY / "protos/gen"], text=True))
    assert ours == theirs
    assert sum(name.startswith("GRPCInferenceService/") for name in ours) == METHODS
