"""Who may import whom, and what a robot needs to import the client."""

import importlib.metadata
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = ("starling", "engines", "services", "mesh")
SCRIPTS = Path(sysconfig.get_path("scripts"))

REFUSE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused!r} or name in {refused!r}:
            raise ImportError(f"{{name}} is not on a robot")

sys.meta_path.insert(0, Refuse())
"""


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    path = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'protos' / 'gen'}", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", script], env=path, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_import_contracts_hold() -> None:
    done = subprocess.run(
        [SCRIPTS / "lint-imports", "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", OURS)
def test_our_top_level_names_are_ours_alone(name: str) -> None:
    owners = set(importlib.metadata.packages_distributions().get(name, ()))
    assert owners <= {"starling-mesh"}
    done = run_python(f"import {name}; print(*{name}.__path__)")
    assert done.returncode == 0, done.stderr
    assert all(Path(folder).is_relative_to(REPOSITORY) for folder in done.stdout.split())


def test_every_package_is_typed_and_has_a_contents_page() -> None:
    for name in ("engines", "services", "mesh", "protos/gen/starling"):
        assert (REPOSITORY / name / "py.typed").exists(), name
        assert (REPOSITORY / name / "__init__.py").exists(), name


def test_a_robot_needs_neither_the_servers_nor_their_packages() -> None:
    refused = {
        *("engines", "mesh", "services.host", "services.predict"),
        *("cv2", "openvino", "onnx", "onnxruntime", "h5py", "rich", "rich_argparse", "prometheus_client"),
        *("grpc_health", "grpc_reflection", "ml_dtypes"),
    }
    script = (
        REFUSE.format(refused=refused)
        + """
import numpy as np
from services.client import AsyncClient, Client, Request, Unavailable
from services.client.codec import encode_request
assert encode_request(Request(model="m", inputs={"x": np.zeros((1, 2), np.float16)}))
with Client("127.0.0.1:1") as client:
    try:
        client.predict("m", {"x": np.zeros((1, 2))}, deadline_s=5)
    except Unavailable:
        print("works")
"""
    )
    done = run_python(script)
    assert (done.returncode, done.stdout.strip()) == (0, "works"), done.stderr


@pytest.mark.parametrize("module", ["services.host", "services.host.cli", "services.host.settings"])
def test_what_services_share_runs_without_grpcio(module: str) -> None:
    done = run_python(REFUSE.format(refused={"grpc", "numpy"}) + f"import {module}")
    assert done.returncode == 0, done.stderr


def test_an_error_is_encoded_without_grpcio() -> None:
    script = (
        REFUSE.format(refused={"grpc"}) + "from services.host import encode_error as e; print(e(TimeoutError()).code)"
    )
    done = run_python(script)
    assert (done.returncode, done.stdout.strip()) == (0, "4"), done.stderr


def test_the_node_starts_without_grpcio_and_without_the_mesh() -> None:
    refused = {"grpc", "mesh", "services.client", "cv2", "onnx", "onnxruntime", "h5py"}
    script = REFUSE.format(refused=refused) + "import services.predict.app"
    done = subprocess.run(  # the native modules are where the installation put them, so no PYTHONPATH
        [sys.executable, "-c", script], cwd="/", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
