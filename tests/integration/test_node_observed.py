"""What operators and their tools see of a node: health, reflection and metrics."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse
from prometheus_client.parser import text_string_to_metric_families

from engines import DataType
from services.client import Client, StarlingError
from tests.support.node import RunningNode, StartNode, find_free_port, is_listening
from tests.support.node_calls import echo_request, raw_method, refused, tensor
from tests.support.node_models import identity, publish
from tests.support.waiting import wait_until

SERVICES = {
    "inference.GRPCInferenceService",
    "starling.predict.v1.PredictService",
    "starling.predict.v1.ModelService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "xds.service.orca.v3.OpenRcaService",
}
COUNTED = ("starling_requests_total", "starling_rows_total", "starling_executions_total")
SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def test_health_follows_the_life_of_a_node(start_node: StartNode, tmp_path: Path) -> None:
    # Warm-up runs the engine twice, which leaves time to look at a node that is not ready.
    publish(tmp_path / "models", identity("slow", (DataType.FP32, (4,)), delay_us=400_000))
    port = find_free_port()
    node = start_node(tmp_path / "models", ready=False, grpc=f"127.0.0.1:{port}")
    seen: list[int] = []

    def watch(stub: HealthStub) -> None:
        with suppress(grpc.RpcError):
            seen.extend(answer.status for answer in stub.Watch(HealthCheckRequest(), timeout=30))

    assert wait_until(lambda: is_listening(port))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = HealthStub(channel)
        watcher = threading.Thread(target=watch, args=(stub,))
        watcher.start()
        asked = HealthCheckRequest(service="starling.predict.v1.PredictService")
        assert stub.Check(asked, timeout=5).status == NOT_SERVING
        refusal = refused(lambda: raw_method(channel)(echo_request().SerializeToString(), timeout=5))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        node.wait_ready()
        assert stub.Check(asked, timeout=5).status == SERVING
        # A request in flight keeps the node up after SIGTERM, so that the last state can be seen.
        last = channel.unary_unary("/starling.predict.v1.PredictService/Predict").future(
            echo_request(model_name="slow", inputs=[tensor("x0", (1, 4))]).SerializeToString(), timeout=10
        )
        assert wait_until(lambda: node.count("starling_calls_in_flight") == 1)
        node.terminate()
        assert wait_until(lambda: seen[-1:] == [NOT_SERVING] and len(seen) > 1)
        assert last.result()
        watcher.join(10)
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
    assert node.wait() == 0


@pytest.mark.parametrize("service", ["", *sorted(SERVICES - {"grpc.health.v1.Health"})])
def test_health_knows_every_service(channel: grpc.Channel, service: str) -> None:
    assert HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=5).status == SERVING


def test_health_of_a_service_that_is_not_there(channel: grpc.Channel) -> None:
    refusal = refused(lambda: HealthStub(channel).Check(HealthCheckRequest(service="nobody"), timeout=5))
    assert refusal.code is grpc.StatusCode.NOT_FOUND


def test_a_tool_without_our_protos_can_call_a_model(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == SERVICES
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("starling.predict.v1.PredictService")
    assert [method.name for method in service.methods] == ["Predict", "PredictStream"]
    method = service.methods_by_name["Predict"]
    request = GetMessageClass(method.input_type)()
    request.ParseFromString(echo_request(2).SerializeToString())
    assert request.model_name == "echo"
    answer = GetMessageClass(method.output_type)()
    answer.ParseFromString(raw_method(channel)(request.SerializeToString(), timeout=5))
    assert (answer.model_name, answer.node) == ("echo", "node-1")
    assert pool.FindMessageTypeByName("google.protobuf.Duration").fields_by_name["nanos"].number == 2


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_each_message_of_one_stream(channel: grpc.Channel, version: str) -> None:
    asked = [
        ServerReflectionRequest(host="h", list_services=""),
        ServerReflectionRequest(file_by_filename="starling/tensor/v1/tensor.proto"),
        ServerReflectionRequest(file_containing_symbol="starling.predict.v1.Nobody"),
        ServerReflectionRequest(),
    ]
    method = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )
    answers = list(method(iter(asked), timeout=5))
    assert [answer.original_request for answer in answers] == asked
    assert {one.name for one in answers[0].list_services_response.service} == SERVICES
    assert len(answers[1].file_descriptor_response.file_descriptor_proto) == 1
    assert [answer.error_response.error_code for answer in answers[2:]] == [5, 5]
    assert "Nobody" in answers[2].error_response.error_message


def test_counts_agree_with_what_was_sent(node: RunningNode, channel: grpc.Channel) -> None:
    def read() -> dict[str, float]:
        return {
            **{name: node.count(name, model="echo") for name in COUNTED},
            "answered": node.count("starling_requests_total", model="echo", reason="OK"),
            "invalid": node.count("starling_requests_total", model="echo", reason="INVALID_INPUT"),
            "failed": node.count("starling_requests_total", model="broken", reason="ENGINE_FAILED"),
            "malformed": node.count("starling_malformed_requests_total"),
            "unknown": node.count("starling_unknown_model_requests_total"),
            "histogram": node.count("starling_request_duration_seconds_count", model="echo"),
            "success": node.count("nv_inference_request_success", model="echo"),
            "failure": node.count("nv_inference_request_failure", model="broken"),
        }

    before = read()
    with Client(node.target) as client:
        for rows in (1, 3, 5):
            client.predict("echo", {"x0": np.zeros((rows, 64), np.float32)})
        for model, shape in (("echo", (1, 63)), ("broken", (1, 4)), ("nobody", (1, 1))):
            with pytest.raises(StarlingError):
                client.predict(model, {"x0": np.zeros(shape, np.float32)})
    refused(lambda: raw_method(channel)(b"\xff", timeout=5))
    after = read()
    assert {name: after[name] - before[name] for name in after} == {
        "starling_requests_total": 4,
        "starling_rows_total": 9,
        "starling_executions_total": 3,
        "answered": 3,
        "invalid": 1,
        "failed": 1,
        "malformed": 1,
        "unknown": 1,
        "histogram": 3,
        "success": 3,
        "failure": 1,
    }


def test_metrics_have_units_help_and_triton_names(node: RunningNode, client: Client) -> None:
    client.predict("echo", {"x0": np.zeros((1, 64), np.float32)})
    families = {family.name: family for family in text_string_to_metric_families(node.read_metrics())}
    assert all(family.documentation for family in families.values())
    names = {
        *(f"starling_{name}_duration_seconds" for name in ("request", "queue", "compute")),
        *(f"starling_{name}" for name in ("requests", "rows", "executions", "expired_executed", "calls_in_flight")),
        *(f"nv_inference_{name}" for name in ("request_success", "request_failure", "count", "exec_count")),
        *(f"nv_inference_{name}_duration_us" for name in ("request", "queue", "compute_infer")),
        "nv_inference_pending_request_count",
        "starling_queue_requests",
        "process_resident_memory_bytes",
    }
    assert names <= families.keys()
    histograms = {name for name, family in families.items() if family.type == "histogram"}
    assert histograms
    assert all(name.startswith("starling_") and name.endswith("_seconds") for name in histograms)


def test_histograms_are_cumulative_and_hold_every_answer(node: RunningNode, client: Client) -> None:
    for _ in range(20):
        client.predict("batched", {"x0": np.zeros((1, 2), np.float32)})
    families = {family.name: family for family in text_string_to_metric_families(node.read_metrics())}
    samples = families["starling_request_duration_seconds"].samples
    mine = [one for one in samples if one.labels["model"] == "batched"]
    buckets = [(float(one.labels["le"]), one.value) for one in mine if one.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    counts = [count for _, count in buckets]
    assert counts == sorted(counts)
    (total,) = (one.value for one in mine if one.name.endswith("_count"))
    (sum_s,) = (one.value for one in mine if one.name.endswith("_sum"))
    assert counts[-1] == total >= 20
    assert all(count == 0 for edge_s, count in buckets if edge_s < 0.002), "the engine takes 2 ms"
    assert 0.002 * total <= sum_s < 10 * total


def test_slack_and_misses_are_counted_by_class_in_histograms_that_can_be_added(
    node: RunningNode, client: Client
) -> None:
    def read(name: str, model: str) -> list[float]:
        return [node.count(f"starling_{name}", model=model, priority=str(priority)) for priority in range(4)]

    def read_all() -> dict[str, list[float]]:
        return {
            "met": read("deadlines_met_total", "echo"),
            "slack": read("slack_seconds_count", "echo"),
            "slack s": read("slack_seconds_sum", "echo"),
            "missed": read("deadlines_missed_total", "broken"),
            "invalid": read("deadlines_missed_total", "echo"),
        }

    before = read_all()
    for priority in range(4):
        for _ in range(priority + 1):
            client.predict("echo", {"x0": np.zeros((1, 64), np.float32)}, deadline_s=20, priority=priority)
    with pytest.raises(StarlingError, match="wants FP32"):
        client.predict("echo", {"x0": np.zeros((1, 63), np.float32)}, priority=1)
    with pytest.raises(StarlingError, match="broken"):
        client.predict("broken", {"x0": np.zeros((1, 4), np.float32)}, priority=2)
    after = read_all()
    grown = {key: [new - old for new, old in zip(after[key], before[key], strict=True)] for key in after}
    assert (grown["met"], grown["slack"]) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert (grown["missed"], grown["invalid"]) == ([0, 0, 1, 0], [0, 0, 0, 0])
    # gRPC rounds the time that it tells the node up.
    assert all(0 < slack_s < 21 * count for slack_s, count in zip(grown["slack s"], grown["met"], strict=True))
    # The same edges everywhere: what several nodes, models and classes count may be summed.
    families = {family.name: family for family in text_string_to_metric_families(node.read_metrics())}
    edges: dict[tuple[str, ...], list[str]] = {}
    for name in ("starling_slack_seconds", "starling_lateness_seconds"):
        for one in families[name].samples:
            if one.name.endswith("_bucket"):
                key = (name, one.labels["model"], one.labels["priority"])
                edges.setdefault(key, []).append(one.labels["le"])
    assert len(edges) > 8
    assert len({tuple(one) for one in edges.values()}) == 1
