"""Tools that have never seen our protos: buf and grpcurl call a node, and a mesh through its gateway."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh.local_mesh import LocalMesh, MeshPlan, start_mesh
from mesh.supervisor import Supervisor
from services.host import Address
from tests.support.grpcurl import GrpcurlMissing, build_grpcurl
from tests.support.node import RunningNode
from tests.support.node_models import build_plus_one, plus_one, publish

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
    "starling.predict.v1.ModelService",
    "starling.predict.v1.PredictService",
    "xds.service.orca.v3.OpenRcaService",
]
_BUF = (
    str(Path(sys.executable).with_name("buf")),
    "curl",
    "--protocol",
    "grpc",
    "--http2-prior-knowledge",
    "--reflect",
)
_LIMIT_S = 30.0
_README = Path(__file__).parents[2] / "README.md"
Call = Callable[[str, str, dict[str, Any]], dict[str, Any]]


def to_camel(name: str) -> str:
    """Returns a field's name as protobuf's JSON has it; grpcurl prints the names of the file."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def grpcurl() -> str:
    """Returns the program; skips the test where there is no Go to build it with."""
    try:
        return str(build_grpcurl())
    except GrpcurlMissing as error:
        if shutil.which("go") is None:
            pytest.skip(str(error))
        raise


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def call_with_buf(target: str, method: str, message: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(*_BUF, "-d", json.dumps(message), f"http://{target}/{method}"))
    return answer


def call_with_grpcurl(target: str, method: str, message: dict[str, Any]) -> dict[str, Any]:
    text = run(grpcurl(), "-plaintext", "-d", json.dumps(message), target, method)
    answer: dict[str, Any] = json.loads(text, object_pairs_hook=lambda pairs: {to_camel(k): v for k, v in pairs})
    return answer


def check(call: Call, target: str, node: str) -> None:
    """Calls every service, and what an operator calls first."""
    assert call(target, "grpc.health.v1.Health/Check", {}) == {"status": "SERVING"}
    for version in ("v1", "v1alpha"):
        method = f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        listed = call(target, method, {"listServices": ""})["listServicesResponse"]["service"]
        assert [one["name"] for one in listed] == SERVICES
    models = call(target, "starling.predict.v1.ModelService/ListModels", {"name": "plus-one"})["models"]
    assert [(model["name"], model["version"], model["state"]) for model in models] == [
        ("plus-one", "1", "MODEL_STATE_READY")
    ]
    x = np.array([[1, 2, 3]], np.float32)
    sent = {"name": "x", "dataType": "DATA_TYPE_FP32", "shape": [1, 3], "data": base64.b64encode(x.tobytes()).decode()}
    request = {"modelName": "plus-one", "requestId": "by hand", "inputs": [sent]}
    answer = call(target, "starling.predict.v1.PredictService/Predict", request)
    assert (answer["requestId"], answer["node"]) == ("by hand", node)
    y = np.frombuffer(base64.b64decode(answer["outputs"][0]["data"]), np.float32)
    assert y.tolist() == [2, 3, 4]
    assert call(target, "inference.GRPCInferenceService/ModelReady", {"name": "plus-one"}) == {"ready": True}
    typed = {"name": "x", "datatype": "FP32", "shape": [1, 3], "contents": {"fp32Contents": [1, 2, 3]}}
    answer = call(target, "inference.GRPCInferenceService/ModelInfer", {"modelName": "plus-one", "inputs": [typed]})
    assert np.frombuffer(base64.b64decode(answer["rawOutputContents"][0]), np.float32).tolist() == [2, 3, 4]
    # Streams as well.
    answer = call(target, "starling.predict.v1.PredictService/PredictStream", {"request": request})
    assert answer["response"]["outputs"][0]["name"] == "y"
    infer = {"modelName": "plus-one", "inputs": [typed]}
    answer = call(target, "inference.GRPCInferenceService/ModelStreamInfer", infer)
    assert answer["inferResponse"]["outputs"][0]["name"] == "y"


def check_descriptions(target: str) -> None:
    """Describes every service, and a message deep enough to need the files that its own imports."""
    text = run(grpcurl(), "-plaintext", target, "describe")
    for service in SERVICES:
        assert f"{service} is a service:" in text
    for message in ("inference.ModelConfigResponse", "inference.ModelConfig"):
        assert f"{message} is a message:" in run(grpcurl(), "-plaintext", target, "describe", message)


def test_buf_lists_and_calls_a_node(node: RunningNode) -> None:
    assert run(*_BUF, "--list-services", f"http://{node.target}").split() == SERVICES
    methods = run(*_BUF, "--list-methods", f"http://{node.target}").split()
    assert "starling.predict.v1.PredictService/PredictStream" in methods
    check(call_with_buf, node.target, "node-1")


def test_grpcurl_lists_describes_and_calls_a_node(node: RunningNode) -> None:
    assert run(grpcurl(), "-plaintext", node.target, "list").split() == SERVICES
    check_descriptions(node.target)
    text = run(grpcurl(), "-plaintext", node.target, "describe", "starling.predict.v1.PredictService.Predict")
    assert (
        "rpc Predict ( .starling.predict.v1.PredictRequest ) returns ( .starling.predict.v1.PredictResponse );" in text
    )
    assert "bytes data = 4;" in run(grpcurl(), "-plaintext", node.target, "describe", "starling.tensor.v1.Tensor")
    check(call_with_grpcurl, node.target, "node-1")


def test_grpcurl_shows_the_reason_of_a_refusal(node: RunningNode) -> None:
    message = json.dumps({"modelName": "nobody"})
    done = subprocess.run(
        [grpcurl(), "-plaintext", "-d", message, node.target, "starling.predict.v1.PredictService/Predict"],
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    assert done.returncode != 0
    for words in (
        "Code: NotFound",
        "model nobody is unknown to node node-1",
        '"reason": "MODEL_NOT_FOUND"',
        "starling",
    ):
        assert words in done.stderr


@asynccontextmanager
async def running_mesh(repository: Path, run_dir: Path, model: str = "plus-one") -> AsyncIterator[LocalMesh]:
    plan = MeshPlan(
        gateway=Address("127.0.0.1", 0),
        repository=repository,
        models=(model,),
        edges=1,
        clouds=0,
        rtt_ms=0,
        run_dir=run_dir,
    )
    async with Supervisor() as supervisor:
        yield await start_mesh(supervisor, plan)


async def test_both_call_a_real_node_through_the_gateway(repository: Path, tmp_path: Path) -> None:
    async with running_mesh(repository, tmp_path) as mesh:
        target = str(mesh.gateway)
        listed = await asyncio.to_thread(run, *_BUF, "--list-services", f"http://{target}")
        assert listed.split() == SERVICES
        await asyncio.to_thread(check, call_with_buf, target, "edge-1")
        program = grpcurl()
        assert (await asyncio.to_thread(run, program, "-plaintext", target, "list")).split() == SERVICES
        await asyncio.to_thread(check_descriptions, target)
        await asyncio.to_thread(check, call_with_grpcurl, target, "edge-1")


async def test_the_lines_that_the_readme_shows_work(tmp_path: Path) -> None:
    lines = re.findall(r"^\$ (grpcurl .*)$", _README.read_text(), re.MULTILINE)
    assert len(lines) >= 4
    models = tmp_path / "models"
    publish(models, plus_one("nanodet"), onnx_file=build_plus_one())
    async with running_mesh(models, tmp_path, "nanodet") as mesh:
        for line in lines:
            assert "127.0.0.1:50051" in line
            program, *arguments = shlex.split(line.replace("127.0.0.1:50051", str(mesh.gateway)))
            assert program == "grpcurl"
            assert await asyncio.to_thread(run, grpcurl(), *arguments), line
