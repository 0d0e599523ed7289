"""What every process shares: settings, addresses, errors on the wire, the command line."""

from services.host.address import Address
from services.host.checks import (
    above,
    at_least,
    between,
    each_of,
    existing_dir,
    existing_file,
    not_empty,
    reachable_port,
    readable_by,
)
from services.host.errors import DOMAIN, StatusCode, WireError, describe_error, encode_error, has_words
from services.host.flags import name_words
from services.host.settings import (
    Problem,
    SettingInfo,
    SettingsError,
    describe_settings,
    read_settings,
    setting,
)

__all__ = [
    "DOMAIN",
    "Address",
    "Problem",
    "SettingInfo",
    "SettingsError",
    "StatusCode",
    "WireError",
    "above",
    "at_least",
    "between",
    "describe_error",
    "describe_settings",
    "each_of",
    "encode_error",
    "existing_dir",
    "existing_file",
    "has_words",
    "name_words",
    "not_empty",
    "reachable_port",
    "read_settings",
    "readable_by",
    "setting",
]
