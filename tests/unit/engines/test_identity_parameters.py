"""Tests of the parameters that make the identity engine slow or faulty."""

from dataclasses import replace

import pytest

from engines import InvalidConfig, parse_config, render_config

ECHO = """
name: "echo" backend: "identity" max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 64 }
output { name: "y" data_type: TYPE_FP32 dims: 64 }
parameters { key: "starling.identity_delay_us" value { string_value: "1500" } }
parameters { key: "starling.identity_fail_every" value { string_value: "3" } }
"""


def test_delay_and_failures_are_read_and_written_back() -> None:
    config = parse_config(ECHO)
    assert (config.identity_delay_us, config.identity_fail_every) == (1500, 3)
    assert parse_config(render_config(config)) == config


def test_an_engine_without_them_does_not_mention_them() -> None:
    config = replace(parse_config(ECHO), identity_delay_us=0, identity_fail_every=0)
    assert "identity_" not in render_config(config)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"1500"', '"-1"', '"starling.identity_delay_us" is "-1"; expected an integer from 0 to 60000000'),
        ('"1500"', '"60000001"', "expected an integer from 0 to 60000000"),
        ('"3"', '"often"', '"starling.identity_fail_every" is "often"; expected an integer'),
        ('"identity"', '"openvino"', 'are for backend "identity", not "openvino"; remove them'),
    ],
)
def test_wrong_values_and_other_backends_are_refused(old: str, new: str, says: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_config(ECHO.replace(old, new))
    assert says in str(caught.value)
