"""What `starling up` takes for rates of tenants, and what it refuses before anything starts."""

from __future__ import annotations

import pytest

from mesh.gateway.security import Rate
from mesh.up import UpSettings, parse_rate
from services.host import SettingsError, read_settings


def read(*flags: str) -> UpSettings:
    return read_settings(UpSettings, flags, {}, prog="starling up", description="")


@pytest.mark.parametrize(("text", "found"), [("gold=2000", ("gold", Rate(2000, 4000))), ("a=b=1", ("a=b", Rate(1, 2)))])
def test_a_rate_belongs_to_a_tenant(text: str, found: tuple[str, Rate]) -> None:
    assert parse_rate(text) == found
    assert read("--secure", "--tenant-rate-of", text).tenant_rate_of == (text,)


@pytest.mark.parametrize("text", ["gold", "=5", "gold=", "gold=0", "gold=-1", "gold=1.5", "gold=many"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--tenant-rate-of"):
        read("--secure", "--tenant-rate-of", text)


def test_a_tenant_has_one_rate() -> None:
    with pytest.raises(SettingsError, match="one rate for each tenant"):
        read("--secure", "--tenant-rate-of", "a=1", "--tenant-rate-of", "a=2")


@pytest.mark.parametrize("flags", [("--tenant-rate-of", "a=1"), ("--tenant-rate-everywhere",)])
def test_rates_of_tenants_need_tokens(flags: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match="need --secure"):
        read(*flags)
    read("--secure", *flags)
