"""What a gateway should have, as a snapshot: a pure function of who it is, the nodes and their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mesh.control.assignment import build_assignment
from mesh.control.messages import CLUSTER, ENDPOINTS, LISTENER, ROUTES, parse_resource
from mesh.control.snapshot import Snapshot
from mesh.endpoint import Endpoint
from mesh.gateway import LISTENER as LISTENER_NAME
from mesh.gateway import ROUTES as ROUTES_NAME
from mesh.gateway import Balancer, ModelRoute, Pool, grpc_listener, nodes_cluster, route_configuration
from mesh.gateway.security import SecurityPlan, further_clusters, secure_listener, secure_nodes
from services.host import Address


def build_frame(
    listen: Address,
    balancer: Balancer,
    security: SecurityPlan | None = None,
    models: Collection[ModelRoute] = (),
    *,
    are_all: bool = False,
    are_asked: bool = False,
) -> Snapshot:
    """Returns the part of a gateway's snapshot that does not change with the nodes: clusters, listener, routes.

    Args:
        listen: where the gateway listens.
        balancer: how it picks a node.
        security: who may call; plain text from everybody without it.
        models: where the calls for each model go.
        are_all: whether there are no other models.
        are_asked: see `nodes_cluster`.
    """
    pools = find_pools(models)
    listener, clusters = grpc_listener(listen), [nodes_cluster(balancer, pool, are_asked=are_asked) for pool in pools]
    if security is not None:
        listener = secure_listener(listener, security)
        clusters = [secure_nodes(cluster, security) for cluster in clusters] + list(further_clusters(security))
    frame = Snapshot()
    frame = frame.with_messages(CLUSTER, {c["name"]: parse_resource(CLUSTER, c) for c in clusters})
    frame = frame.with_messages(LISTENER, {LISTENER_NAME: parse_resource(LISTENER, listener)})
    routes = route_configuration(models, are_all=are_all)
    return frame.with_messages(ROUTES, {ROUTES_NAME: parse_resource(ROUTES, routes)})


def find_pools(models: Collection[ModelRoute]) -> list[Pool]:
    """Returns the pools that a gateway needs: each costs health checks and connections of its own."""
    used = {Pool.NODES, *(model.pool for model in models)}
    return [pool for pool in Pool if pool in used]


def build_snapshot(frame: Snapshot, endpoints: Sequence[Endpoint], weights: Mapping[str, int]) -> Snapshot:
    """Returns the whole snapshot: a frame with the endpoints of now.

    Args:
        frame: from `build_frame`.
        endpoints: every node.
        weights: weight by node name, each >= 1.
    """
    # A changed weight would move agents to other nodes, so the pools that keep them together have none.
    level = {endpoint.name: 1 for endpoint in endpoints}
    pools = [pool for pool in Pool if str(pool) in frame.of_type(CLUSTER)]
    assignments = {
        str(pool): build_assignment(str(pool), endpoints, weights if pool is Pool.NODES else level) for pool in pools
    }
    return frame.with_messages(ENDPOINTS, assignments)
