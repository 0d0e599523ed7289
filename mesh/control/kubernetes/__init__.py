"""Nodes from Kubernetes: the ready endpoints of services, followed as their EndpointSlices change."""
