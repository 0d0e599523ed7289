"""Several hosts on one machine, joined by links whose delay, jitter, loss and rate can change."""

from mesh.testbed.errors import BadPlan, ChangeRefused, TestbedMissing, WireMissing
from mesh.testbed.plan import Link, Route, Shape, TestbedPlan, parse_plan, read_plan
from mesh.testbed.status import LaneStatus
from mesh.testbed.testbed import Testbed, find_program, open_testbed, why_no_wire
from mesh.testbed.wired import WiredTestbed

__all__ = [
    "BadPlan",
    "ChangeRefused",
    "LaneStatus",
    "Link",
    "Route",
    "Shape",
    "Testbed",
    "TestbedMissing",
    "TestbedPlan",
    "WireMissing",
    "WiredTestbed",
    "find_program",
    "open_testbed",
    "parse_plan",
    "read_plan",
    "why_no_wire",
]
