"""An address is `HOST:PORT`, and every other spelling is refused with the fix."""

import pytest

from services.host import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:50051", Address("127.0.0.1", 50051)),
        ("edge-0.local:0", Address("edge-0.local", 0)),
        ("[::1]:8001", Address("::1", 8001)),
        (" 0.0.0.0:65535 ", Address("0.0.0.0", 65535)),
    ],
)
def test_parse_reads_what_str_writes(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8001", "has no port; expected HOST:PORT"),
        (":8001", "host is empty; write 127.0.0.1"),
        ("localhost:", "has port ''"),
        ("localhost:http", "has port 'http'"),
        ("localhost:-1", "has port '-1'"),
        ("localhost:\u0663", "expected a number"),
        ("localhost:65536", "port 65536 is out of range"),
        ("::1:8001", "write an IPv6 address as [::1]:8001"),
    ],
)
def test_a_wrong_address_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Address.parse(text)
    assert says in str(caught.value)


def test_with_port_keeps_the_host() -> None:
    assert str(Address("::1", 0).with_port(41000)) == "[::1]:41000"
