"""What the gateway answers itself: gRPC statuses with the reason and what to do, instead of Envoy's short words."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mesh.gateway.model_name import LABEL_HEADER, MODEL_HEADER, VERSION_HEADER
from mesh.gateway.typed import Resource
from services.host import DOMAIN, StatusCode

NOT_LOADED = 404
"""HTTP status with which a route says that no node has what the call is for."""

_RETRY_MS = 500  # by then a node that fell silent speaks again, or another one has taken its place
_NAMED = {
    VERSION_HEADER: "version %REQ(X-MODEL-VERSION)% of model %REQ(X-MODEL-NAME)%",
    LABEL_HEADER: "label %REQ(X-MODEL-LABEL)% of model %REQ(X-MODEL-NAME)%",
    MODEL_HEADER: "model %REQ(X-MODEL-NAME)%",
}
_NO_HEALTHY_NODE = {"response_flag_filter": {"flags": ["UH"]}}


def replies(further: Sequence[Resource] = ()) -> Resource:
    """Returns the `LocalReplyConfig` of answers that the gateway gives itself.

    Args:
        further: mappers from `reply`, looked at first.
    """
    return {
        "mappers": [
            *further,
            *(_not_loaded(header, what) for header, what in _NAMED.items()),
            reply(
                _NO_HEALTHY_NODE,
                StatusCode.UNAVAILABLE,
                "NO_NODE",
                "no node that could answer is well at the moment; try again",
                retry_ms=_RETRY_MS,
            ),
        ]
    }


def _not_loaded(header: str, what: str) -> Resource:
    """Returns the mapper of refused calls that have this header."""
    named = {"header_filter": {"header": {"name": header, "present_match": True}}}
    return reply(
        {"and_filter": {"filters": [has_status(NOT_LOADED), named]}},
        StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
        f"{what} is loaded on no node; `starling mesh status` shows what is",
    )


def has_status(http_status: int) -> Resource:
    """Returns the filter of answers with an HTTP status, as Envoy knows it before it becomes one of gRPC."""
    value = {"default_value": http_status, "runtime_key": f"starling.replies.{http_status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def reply(answers: Resource, code: StatusCode, reason: str, text: str, retry_ms: int | None = None) -> Resource:
    """Returns the mapper that gives answers of the gateway a status.

    Args:
        answers: filter of those that it is about.
        code: what the caller reads first.
        reason: the stable word beside it.
        text: what was found and what to do; may hold Envoy's `%OPERATORS%`.
        retry_ms: time after which trying again is worth it; never if absent.
    """
    details = Status(code=int(code), message=reason)
    details.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata={"by": "gateway"}))
    if retry_ms is not None:
        details.details.add().Pack(RetryInfo(retry_delay=Duration(nanos=retry_ms * 1_000_000)))
    encoded = base64.b64encode(details.SerializeToString(deterministic=True)).decode().rstrip("=")
    headers = {"grpc-status": str(int(code)), "grpc-status-details-bin": encoded}
    return {
        "filter": answers,
        "body_format_override": {"text_format_source": {"inline_string": text}},
        "headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
    }
