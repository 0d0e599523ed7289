"""What Triton is given to serve, and what is said where there is no Triton. Nothing is fetched here."""

from __future__ import annotations

import io
import re
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from mesh.bench.locked_packages import NotAvailable
from mesh.bench.triton import TritonModel, ensure_triton, identity_model, nanodet_model, raptor_model
from mesh.bench.triton.repository import config_text, write_triton_repository

REPOSITORY = Path(__file__).resolve().parents[4]


def test_the_policy_is_configured_with_dynamic_batching() -> None:
    assert config_text(raptor_model(Path("/m/model.onnx"), "raptor_0us", 0)) == (
        'name: "raptor_0us"\n'
        'backend: "python"\n'
        "max_batch_size: 64\n"
        'input [ { name: "obs" data_type: TYPE_FP32 dims: [ 22 ] } ]\n'
        'input [ { name: "h" data_type: TYPE_FP32 dims: [ 16 ] } ]\n'
        'output [ { name: "action" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
        'output [ { name: "h_out" data_type: TYPE_FP32 dims: [ 16 ] } ]\n'
        "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        "dynamic_batching { max_queue_delay_microseconds: 0 }\n"
        'parameters { key: "graph" value { string_value: "/m/model.onnx" } }\n'
        'parameters { key: "batches" value { string_value: "1 8 32 64" } }\n'
    )


def test_the_largest_batch_is_one_that_is_compiled() -> None:
    for model in (raptor_model(Path("m")), nanodet_model(Path("m"))):
        assert max(map(int, model.parameters["batches"].split())) == model.max_batch_size


def test_a_repository_holds_configurations_and_code(tmp_path: Path) -> None:
    models = [identity_model(), nanodet_model(Path("/m/model.onnx"))]
    folder = write_triton_repository(tmp_path / "triton", models, Path("/packages"))
    assert sorted(path.name for path in folder.iterdir()) == ["identity64", "nanodet"]
    assert (folder / "identity64" / "config.pbtxt").read_text() == config_text(models[0])
    code = (folder / "nanodet" / "1" / "model.py").read_text()
    assert "sys.path.insert(0, '/packages')" in code
    assert code.endswith("from mesh.bench.triton_models.openvino_detector import TritonPythonModel\n")
    compile(code, "model.py", "exec")


@pytest.mark.parametrize("model", [identity_model(), raptor_model(Path("m")), nanodet_model(Path("m"))])
def test_the_code_of_each_model_exists(model: TritonModel) -> None:
    assert (REPOSITORY / "mesh/bench/triton_models" / f"{model.code}.py").is_file()


def test_both_sides_run_the_same_release_of_the_engine() -> None:
    ours = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    locked = re.findall(r"^openvino==\S+", (REPOSITORY / ".ci/triton.txt").read_text(), re.MULTILINE)
    assert locked == [line for line in ours if line.startswith("openvino==")]


async def test_without_a_lock_nothing_is_fetched(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"not available on this machine: .*none\.txt; run the benchmark from"):
        await ensure_triton(Console(file=io.StringIO()), tools=tmp_path, lock=tmp_path / "none.txt")


async def test_a_failure_of_pip_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    lock, tools = tmp_path / "lock.txt", tmp_path / "tools"
    lock.write_text("triton @ nowhere\n")
    with pytest.raises(NotAvailable, match=r"not available on this machine: pip ended with \d+: .+"):
        await ensure_triton(Console(file=io.StringIO()), tools=tools, lock=lock)
    assert list(tools.iterdir()) == []
