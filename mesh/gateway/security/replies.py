"""What refused callers read: gRPC statuses with the reason and what to do, instead of Envoy's short words."""

from __future__ import annotations

import base64

from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from mesh.gateway.security.access import REFUSAL, TOKEN_FILTER
from mesh.gateway.typed import Resource
from services.host import DOMAIN, StatusCode

_RETRY_MS = 100
_REFUSED = "the token was refused: %LOCAL_REPLY_BODY%; send a valid one as `authorization: Bearer TOKEN`"


def local_replies() -> Resource:
    """Returns the `LocalReplyConfig` of answers that the gateway gives itself."""
    return {
        "mappers": [
            # A token for somebody else is a 403 to Envoy, as a lack of rights is; the metadata tells them apart.
            _mapper(_refused_token(), StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", _REFUSED),
            _mapper(_status(401), StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", _REFUSED),
            _mapper(
                _status(403),
                StatusCode.PERMISSION_DENIED,
                "NOT_ALLOWED",
                "%DOWNSTREAM_PEER_URI_SAN% with this token may not call %REQ(:PATH)%: asking models needs an agent's "
                "certificate and the scope infer, missions and state the scope fleet, all else an admin's certificate "
                "and the scope admin",
            ),
            _mapper(
                _status(429),
                StatusCode.RESOURCE_EXHAUSTED,
                "TENANT_OVER_RATE",
                "tenant %REQ(X-TENANT)% asks more often than its rate allows; slow down, or ask for a higher rate",
                retry_ms=_RETRY_MS,
            ),
        ]
    }


def _status(http_status: int) -> Resource:
    value = {"default_value": http_status, "runtime_key": f"starling.replies.{http_status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _refused_token() -> Resource:
    path = [{"key": REFUSAL}, {"key": "code"}]
    matcher = {"filter": TOKEN_FILTER, "path": path, "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}


def _mapper(replies: Resource, code: StatusCode, reason: str, text: str, retry_ms: int | None = None) -> Resource:
    details = Status(code=int(code), message=reason)
    details.details.add().Pack(ErrorInfo(reason=reason, domain=DOMAIN, metadata={"by": "gateway"}))
    if retry_ms is not None:
        details.details.add().Pack(RetryInfo(retry_delay=Duration(nanos=retry_ms * 1_000_000)))
    encoded = base64.b64encode(details.SerializeToString(deterministic=True)).decode().rstrip("=")
    headers = {"grpc-status": str(int(code)), "grpc-status-details-bin": encoded}
    return {
        "filter": replies,
        "body_format_override": {"text_format_source": {"inline_string": text}},
        "headers_to_add": [
            {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
            for key, value in headers.items()
        ],
    }
