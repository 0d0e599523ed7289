"""Routes: which nodes a call may go to, whether it may be repeated on another, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mesh.gateway.clusters import LB_METADATA, SERVES, Pool
from mesh.gateway.model_name import (
    ALLOW_HEADER,
    DEFAULT_HEADER,
    LABEL_HEADER,
    MODEL_HEADER,
    VERSION_HEADER,
    has_header,
    header_input,
)
from mesh.gateway.replies import NOT_LOADED
from mesh.gateway.typed import Resource, extension

ROUTES = "mesh"

REPEATED_BYTES_MAX = 8 << 20
"""Bodies up to this size are kept until answered, so that they can be sent to another node.

A 1080p frame (1920 x 1080 x 3) is 6.2 MB. Larger requests pass, but are sent once.
"""

READ_BYTES_MAX = 65 << 20
"""The same of a call without the name of its model: its first message is held until it is read. Nodes take 64 MiB."""

_AGENT_HEADER = "x-agent-id"
_NOT_GRPC = "This is a Starling gateway; it speaks gRPC: try `grpcurl -plaintext HOST:PORT list`.\n"
_RETRIES = 2  # with the first try, as many as the smallest mesh has nodes
_REPICKS = 1000  # a node with 97 % of the weight is picked again and again; 5, the default, gives up

# Methods by their names alone, which no two services share: Envoy bounds how large an expression may be. Both wire
# formats of the same requests; regions of shared memory and loaded models belong to one node.
_UNARY = ("Predict", "ModelInfer")
_STREAMS = ("PredictStream", "ModelStreamInfer")
_INFERENCE = (*_UNARY, *_STREAMS)
_READS = ("GetModel", "ModelConfig", "ModelMetadata", "ModelReady", "ModelStatistics")
# UNKNOWN, NOT_FOUND, FAILED_PRECONDITION, INTERNAL: the node is broken, or has just unloaded the model.
_ELSEWHERE = ("2", "5", "9", "13")


class _Retry(StrEnum):
    """Which failures are tried again on another node."""

    # Predict is a pure function of its request, so a connection lost under way may be tried again too.
    # A gRPC server that shuts down cancels what it has not yet looked at.
    PREDICT = "resource-exhausted,unavailable,cancelled,connect-failure,refused-stream,reset,retriable-headers"
    # Other methods may change a node: only what no node has started is repeated. So is a step of a sequence: it may
    # have been taken, and no other node has its state.
    UNSENT = "connect-failure,refused-stream"


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the calls that name neither version nor label.

    Attributes:
        version: which gets it.
        percent: how much, 0 to 100.
    """

    version: int
    percent: float


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """Where the calls for one model go.

    Attributes:
        name: of the model.
        pool: how a node is chosen among those that have it.
        versions: that some node has.
        labels: version by label.
        shares: of the calls that name neither, summing to 100; any node with the model when empty.
    """

    name: str
    pool: Pool = Pool.NODES
    versions: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)
    shares: tuple[Share, ...] = ()


def serves_model(name: str) -> str:
    """Returns what a node serves that has any version of a model, as its endpoint says it."""
    return name


def serves_version(name: str, version: int) -> str:
    """Returns what a node serves that has one version of a model, as its endpoint says it."""
    return f"{name}:{version}"


def route_configuration(models: Iterable[ModelRoute] = (), *, are_all: bool = False) -> Resource:
    """Returns the `envoy.config.route.v3.RouteConfiguration`.

    Args:
        models: every model that a node has told of.
        are_all: whether every node has told: calls for any other model are refused, instead of trying some nodes.
    """
    found = sorted(models, key=lambda model: model.name)
    by_name = {model.name: _on_match(_model_routes(model)) for model in found}
    by_other = {model.name: _on_match(_other_routes(model)) for model in found}
    unnamed = _unnamed_routes()
    # What else the call allows may be more than the gateway has read.
    nowhere = [_refusal(_INFERENCE, [_header(ALLOW_HEADER, is_there=False)]), *unnamed] if are_all else unnamed
    # Looked up, not gone through: the time to find a route does not grow with the number of models.
    named = _look_up(MODEL_HEADER, by_name, otherwise=_look_up(ALLOW_HEADER, by_other, _on_match(nowhere)))
    return {
        "name": ROUTES,
        "virtual_hosts": [
            {
                "name": "all",
                "domains": ["*"],
                "matcher": {
                    "matcher_list": {"matchers": [{"predicate": has_header(MODEL_HEADER), "on_match": named}]},
                    "on_no_match": _on_match(unnamed),
                },
            }
        ],
    }


def _model_routes(model: ModelRoute) -> list[Resource]:
    """Returns the routes of calls that name this model."""
    versions = [
        (_header(VERSION_HEADER, f"{v}"), _to(model.pool, serves_version(model.name, v))) for v in model.versions
    ]
    labels = [
        (_header(LABEL_HEADER, label), _to_shares(model, [Share(version, 100)]))
        for label, version in sorted(model.labels.items())
    ]
    retry = _Retry.UNSENT if model.pool is Pool.SEQUENCES else _Retry.PREDICT
    anyone = _to(model.pool, serves_model(model.name))
    routes = []
    for methods, deadline_max_s in ((_UNARY, 60), (_STREAMS, 0)):
        for header, to in (*versions, *labels):
            routes.append(_route(_one_of(methods, [header]), to, retry, deadline_max_s))
        routes += [_refusal(methods, [_header(header)]) for header in (VERSION_HEADER, LABEL_HEADER)]
        to = _to_shares(model, model.shares) if model.shares else anyone
        routes.append(_route(_one_of(methods), to, retry, deadline_max_s))
    routes += [_route(_one_of(_READS, [header]), to, _Retry.UNSENT) for header, to in versions]
    routes.append(_route(_one_of(_READS), anyone, _Retry.UNSENT))
    return [*routes, *_general_routes()]


def _other_routes(model: ModelRoute) -> list[Resource]:
    """Returns the routes of calls for a model that no node has, and which this one may stand in for."""
    to = _to(model.pool, serves_model(model.name))
    return [_route(_one_of(_INFERENCE), to, _Retry.PREDICT, deadline_max_s=60), *_general_routes()]


def _unnamed_routes() -> list[Resource]:
    """Returns the routes of calls that do not say which model they are for, or of which that is not known yet."""
    return [
        _route(_one_of(_INFERENCE), {"cluster": str(Pool.NODES)}, _Retry.PREDICT, 60, held_bytes_max=READ_BYTES_MAX),
        *_general_routes(),
    ]


def _general_routes() -> list[Resource]:
    everything = {"prefix": "/"}
    return [
        # Loading a model may compile for minutes; health watches and reflection stay open.
        _route({**everything, "grpc": {}}, {"cluster": str(Pool.NODES)}, _Retry.UNSENT, deadline_max_s=600),
        {"match": everything, "direct_response": {"status": 415, "body": {"inline_string": _NOT_GRPC}}},
    ]


def _to(pool: Pool, served: str) -> Resource:
    return {"cluster": str(pool), "metadata_match": _serving(served)}


def _to_shares(model: ModelRoute, shares: Iterable[Share]) -> Resource:
    """Returns the nodes that have one of these versions, which are told that calls without a version are for it."""
    clusters = []
    for share in shares:
        served = serves_version(model.name, share.version)
        told = {"header": {"key": DEFAULT_HEADER, "value": served}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        one = {"name": str(model.pool), "weight": round(share.percent * 100), "metadata_match": _serving(served)}
        clusters.append({**one, "request_headers_to_add": [told]})
    # What an agent has begun with one version goes on with it.
    sticks = {} if model.pool is Pool.NODES else {"use_hash_policy": True}
    return {"weighted_clusters": {"clusters": clusters, **sticks}}


def _serving(served: str) -> Resource:
    return {"filter_metadata": {LB_METADATA: {SERVES: served}}}


def _refusal(methods: Iterable[str], headers: Iterable[Resource] = ()) -> Resource:
    return {"match": _one_of(methods, headers), "direct_response": {"status": NOT_LOADED}}


def _route(
    match: Resource, to: Resource, retry: _Retry, deadline_max_s: int = 600, held_bytes_max: int = REPEATED_BYTES_MAX
) -> Resource:
    again: Resource = {"retriable_headers": [_header("grpc-status", code) for code in _ELSEWHERE]}
    return {
        "match": match,
        "request_body_buffer_limit": held_bytes_max,
        "route": {
            **to,
            # The default of 15 s would cut streams; the caller's gRPC deadline rules, up to a bound; 0 is none.
            "timeout": "0s",
            "max_stream_duration": {"grpc_timeout_header_max": f"{deadline_max_s}s"},
            # Only pools that keep agents together look at it.
            "hash_policy": [
                {"header": {"header_name": _AGENT_HEADER}, "terminal": True},
                {"connection_properties": {"source_ip": True}},
            ],
            "retry_policy": {
                "retry_on": str(retry),
                **(again if retry is _Retry.PREDICT else {}),
                "num_retries": _RETRIES,
                "host_selection_retry_max_attempts": _REPICKS,
                "retry_host_predicate": [
                    extension(
                        "envoy.retry_host_predicates.previous_hosts",
                        "retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    )
                ],
                "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.005s"},
            },
        },
    }


def _one_of(methods: Iterable[str], headers: Iterable[Resource] = ()) -> Resource:
    return {"safe_regex": {"regex": f"/[^/]+/({'|'.join(methods)})"}, "grpc": {}, "headers": list(headers)}


def _header(name: str, value: str | None = None, *, is_there: bool = True) -> Resource:
    if value is None:
        return {"name": name, "present_match": is_there}
    return {"name": name, "string_match": {"exact": value}}


def _look_up(header: str, found: Mapping[str, Resource], otherwise: Resource) -> Resource:
    """Returns what to do by the value of a header."""
    if not found:
        return otherwise
    tree = {"input": header_input(header), "exact_match_map": {"map": dict(found)}}
    return {"matcher": {"matcher_tree": tree, "on_no_match": otherwise}}


def _on_match(routes: list[Resource]) -> Resource:
    config = {"@type": "type.googleapis.com/envoy.config.route.v3.RouteList", "routes": routes}
    return {"action": {"name": "routes", "typed_config": config}}
