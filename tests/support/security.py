"""A security plan for tests, each of which replaces the part that it is about."""

from __future__ import annotations

from pathlib import Path

from mesh.gateway.security import SecurityPlan

PLAN = SecurityPlan(certificates=Path("/c"), secrets=Path("/s"), keys="{}", trust_domain="t", issuer="i", audience="a")
"""Nothing of it is there: good for what reads no certificates."""
