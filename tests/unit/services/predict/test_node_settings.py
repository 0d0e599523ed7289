"""Tests of what a node can be told."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.host import Address, SettingsError, read_settings
from services.predict import NodeSettings, Tier


def read(folder: Path, *flags: str, **environ: str) -> NodeSettings:
    argv = ["--repository", str(folder), *flags]
    return read_settings(NodeSettings, argv, environ, prog="starling node", description="")


def problems(folder: Path, *flags: str, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(folder, *flags, **environ)
    return str(caught.value)


def test_only_the_repository_is_required(tmp_path: Path) -> None:
    settings = read(tmp_path)
    assert (settings.repository, settings.tier, settings.model) == (tmp_path, Tier.EDGE, ())
    assert (settings.grpc, settings.metrics) == (Address("127.0.0.1", 8001), Address("127.0.0.1", 8002))
    with pytest.raises(SettingsError, match="--repository: it is required"):
        read_settings(NodeSettings, [], {}, prog="starling node", description="")


def test_variables_and_repeated_flags_are_read(tmp_path: Path) -> None:
    settings = read(tmp_path, "--model", "a", "--model", "b", STARLING_NODE_TIER="cloud", STARLING_NODE_GRACE_S="2.5")
    assert (settings.model, settings.tier, settings.grace_s) == (("a", "b"), Tier.CLOUD, 2.5)


def test_one_port_cannot_serve_two_protocols(tmp_path: Path) -> None:
    text = problems(tmp_path, "--grpc", "127.0.0.1:9000", "--metrics", "127.0.0.1:9000")
    assert "--grpc and --metrics are both 127.0.0.1:9000; give them different ports" in text


def test_two_free_ports_and_two_hosts_do_not_contradict(tmp_path: Path) -> None:
    assert read(tmp_path, "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0").grpc.port == 0
    assert read(tmp_path, "--grpc", "127.0.0.1:9000", "--metrics", "127.0.0.2:9000").metrics.port == 9000


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--name", ""),
        ("--tier", "moon"),
        ("--grpc", "9000"),
        ("--grace-s", "0"),
        ("--grace-s", "nan"),
        ("--message-mib-max", "0"),
        ("--message-mib-max", "1025"),
        ("--streams-max", "0"),
    ],
)
def test_values_out_of_range_name_their_flag(tmp_path: Path, flag: str, value: str) -> None:
    assert f"{flag}: found {value!r}" in problems(tmp_path, flag, value)


def test_a_repository_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "--repository: found" in problems(tmp_path / "nowhere")
