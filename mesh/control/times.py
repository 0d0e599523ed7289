"""Seconds as protobuf's times."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp


def duration(seconds: float) -> Duration:
    """Returns a length of time, to the nanosecond."""
    length = Duration()
    length.FromNanoseconds(round(seconds * 1e9))
    return length


def timestamp(seconds: float) -> Timestamp:
    """Returns a moment, counted from the Unix epoch."""
    moment = Timestamp()
    moment.FromNanoseconds(round(seconds * 1e9))
    return moment
