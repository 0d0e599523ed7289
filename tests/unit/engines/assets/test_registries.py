"""Tests of watching registry clients, with the shell as the client; no registry is reached."""

import time
from pathlib import Path

import pytest

from engines import DiskFull, EngineError
from engines.assets.errors import DownloadFailed, DownloadTampered
from engines.assets.packages import Package, Registry
from engines.assets.registries import RegistryClients, run_watched

PACKAGE = Package(Registry.NPM, "thing", "1.0", "00" * 32, 1000)


class Client:
    """Runs one shell line as the client and remembers the progress it reported."""

    def __init__(self, folder: Path) -> None:
        self.target, self.work = folder / "target", folder / "work"
        self.target.mkdir()
        self.work.mkdir()
        self.seen: list[int] = []

    def run(self, *command: str, stall_s: float = 20.0, total_s: float = 20.0) -> None:
        run_watched(PACKAGE, command, self.target, self.work, self.seen.append, stall_s=stall_s, total_s=total_s)

    def fail(self, line: str, **limits: float) -> EngineError:
        with pytest.raises(EngineError) as caught:
            self.run("sh", "-c", line, **limits)
        return caught.value


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(tmp_path)


def test_growing_files_are_progress(client: Client) -> None:
    client.run("sh", "-c", "printf 12345 > file; sleep 0.3; printf 67890 >> file; sleep 0.3")
    assert client.seen == [5, 10]
    assert (client.target / "file").read_text() == "1234567890"


def test_failure_shows_the_last_words_of_the_client(client: Client) -> None:
    error = client.fail("echo first; echo 404 not found >&2; exit 3")
    assert isinstance(error, DownloadFailed)
    assert "`sh` ended with 3: first | 404 not found" in str(error)
    assert error.facts == {"package": "npm:thing@1.0", "client": "sh"}


def test_silent_failure_is_told_as_such(client: Client) -> None:
    assert "ended with 1: no output" in str(client.fail("exit 1"))


def test_full_disk_is_recognised(client: Client) -> None:
    assert isinstance(client.fail("echo write error: No space left on device; exit 1"), DiskFull)


def test_other_digest_is_recognised(client: Client) -> None:
    error = client.fail("echo THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE; exit 1")
    assert isinstance(error, DownloadTampered)


@pytest.mark.parametrize("limits", [{"stall_s": 0.3}, {"total_s": 0.3}])
def test_client_without_end_is_ended_with_its_children(client: Client, limits: dict[str, float]) -> None:
    started = time.monotonic()
    error = client.fail(f"(sleep 300; touch {client.target}/late) & sleep 300", **limits)
    assert "made no progress" in str(error)
    assert time.monotonic() - started < 60


def test_missing_client_says_what_to_install(client: Client) -> None:
    with pytest.raises(DownloadFailed, match=r"`no-such-client` cannot be started .* install it"):
        client.run("no-such-client")


def test_client_cannot_ask_questions(client: Client) -> None:
    assert "ended with" in str(client.fail("read answer"))


def test_lack_of_room_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    huge = Package(Registry.NPM, "huge", "1.0", "00" * 32, 1 << 60)
    with pytest.raises(DiskFull, match="bytes are needed"):
        RegistryClients().fetch(huge, tmp_path, lambda done: None)
    assert list(tmp_path.iterdir()) == []
