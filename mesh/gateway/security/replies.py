"""What refused callers read: gRPC statuses with the reason and what to do, instead of Envoy's short words."""

from __future__ import annotations

from mesh.gateway.replies import has_status, replies, reply
from mesh.gateway.security.access import REFUSAL, TOKEN_FILTER
from mesh.gateway.typed import Resource
from services.host import StatusCode

_RETRY_MS = 100
_REFUSED = "the token was refused: %LOCAL_REPLY_BODY%; send a valid one as `authorization: Bearer TOKEN`"


def local_replies() -> Resource:
    """Returns the `LocalReplyConfig` of a secure gateway."""
    return replies(
        [
            # A token for somebody else is a 403 to Envoy, as a lack of rights is; the metadata tells them apart.
            reply(_refused_token(), StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", _REFUSED),
            reply(has_status(401), StatusCode.UNAUTHENTICATED, "TOKEN_REFUSED", _REFUSED),
            reply(
                has_status(403),
                StatusCode.PERMISSION_DENIED,
                "NOT_ALLOWED",
                "%DOWNSTREAM_PEER_URI_SAN% with this token may not call %REQ(:PATH)%: asking models needs an agent's "
                "certificate and the scope infer, missions and state the scope fleet, all else an admin's certificate "
                "and the scope admin",
            ),
            reply(
                has_status(429),
                StatusCode.RESOURCE_EXHAUSTED,
                "TENANT_OVER_RATE",
                "tenant %REQ(X-TENANT)% asks more often than its rate allows; slow down, or ask for a higher rate",
                retry_ms=_RETRY_MS,
            ),
        ]
    )


def _refused_token() -> Resource:
    path = [{"key": REFUSAL}, {"key": "code"}]
    matcher = {"filter": TOKEN_FILTER, "path": path, "value": {"present_match": True}}
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": False}}
