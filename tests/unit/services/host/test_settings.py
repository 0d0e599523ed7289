"""Settings: flags win over variables, variables over defaults, and all problems come together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

import pytest

from services.host import (
    Address,
    SettingsError,
    above,
    at_least,
    between,
    describe_settings,
    existing_dir,
    existing_file,
    not_empty,
    reachable_port,
    read_settings,
    setting,
)


class Tier(StrEnum):
    EDGE = "edge"
    CLOUD = "cloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    env_prefix: ClassVar[str] = "SAMPLE"
    repository: Path = setting(help="folder with the models", metavar="DIR")
    tier: Tier = setting(Tier.EDGE, help="where it runs")
    grpc: Address = setting(Address("127.0.0.1", 8001), help="where it listens, [host, port]")
    queue_max: int = setting(512, help="requests that may wait", check=at_least(1))
    share: float = setting(0.5, help="share of the cores, 100% is all", check=between(0, 1))
    warm_up: bool = setting(True, help="warm up first")
    models: tuple[str, ...] = setting((), help="models to load")
    token: Path | None = setting(None, help="file with the token")

    def conflicts(self) -> Iterator[str]:
        if self.tier is Tier.CLOUD and not self.warm_up:
            yield "--tier cloud needs warm-up; drop --no-warm-up"


def read(argv: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Sample:
    return read_settings(Sample, argv, environ or {}, prog="starling sample", description="A sample.")


def problems(argv: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(argv, environ)
    assert caught.value.exit_code == 2
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def test_defaults_fill_what_is_not_given() -> None:
    settings = read(["--repository", "/models"])
    assert settings == Sample(repository=Path("/models"))
    with pytest.raises(FrozenInstanceError):
        settings.queue_max = 1  # type: ignore[misc]


def test_every_type_is_read_from_flags() -> None:
    flags = "--repository /m --tier cloud --grpc [::1]:0 --queue-max 7 --share 1 --token /t"
    settings = read([*flags.split(), "--models", "a", "--models=b", "--no-warm-up", "--warm-up"])
    assert settings == Sample(
        repository=Path("/m"),
        tier=Tier.CLOUD,
        grpc=Address("::1", 0),
        queue_max=7,
        share=1.0,
        warm_up=True,
        models=("a", "b"),
        token=Path("/t"),
    )


def test_every_type_is_read_from_variables() -> None:
    environ = {
        "STARLING_SAMPLE_REPOSITORY": "~/m",
        "STARLING_SAMPLE_TIER": "cloud",
        "STARLING_SAMPLE_MODELS": "a, b,",
        "STARLING_SAMPLE_WARM_UP": "Yes",
        "STARLING_SAMPLE_TOKEN": "",
        "STARLING_OTHER_THING": "belongs to another process",
    }
    settings = read(environ=environ)
    assert settings.repository == Path.home() / "m"
    assert (settings.tier, settings.models, settings.warm_up) == (Tier.CLOUD, ("a", "b"), True)
    assert settings.token is None


def test_a_flag_wins_over_a_variable() -> None:
    environ = {"STARLING_SAMPLE_QUEUE_MAX": "3", "STARLING_SAMPLE_REPOSITORY": "/m"}
    assert read([], environ).queue_max == 3
    assert read(["--queue-max", "4"], environ).queue_max == 4
    assert read(["--queue-max", "4", "--queue-max", "5"], environ).queue_max == 5


def test_all_problems_are_reported_together() -> None:
    found = problems(
        ["--queue-mx", "3", "--tier", "moon", "--grpc", "8001", "--share", "nan"],
        {"STARLING_SAMPLE_QUEUE_MAX": "0", "STARLING_SAMPLE_WARM_UPP": "1"},
    )
    assert found == [
        "command line: found '--queue-mx'; no such setting; did you mean --queue-max?",
        "command line: found '3'; no such setting; see `starling sample --help` for the flags",
        "STARLING_SAMPLE_WARM_UPP: found '1'; no such setting; did you mean STARLING_SAMPLE_WARM_UP?",
        "--repository: it is required; give --repository DIR or set STARLING_SAMPLE_REPOSITORY",
        "--tier: found 'moon'; expected one of edge, cloud",
        "--grpc: found '8001'; '8001' has no port; expected HOST:PORT such as 127.0.0.1:8001",
        "STARLING_SAMPLE_QUEUE_MAX: found '0'; expected a number >= 1; requests that may wait",
        "--share: found 'nan'; expected a finite number",
    ]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--queue-max", "many"], "--queue-max: found 'many'; expected a whole number"),
        (["--share", "2"], "--share: found '2'; expected a number from 0 to 1"),
        (["--share", "half"], "--share: found 'half'; expected a number"),
        (["--repository", ""], "--repository: found ''; expected a path"),
    ],
)
def test_a_wrong_value_says_what_was_expected(argv: list[str], says: str) -> None:
    assert problems(["--repository", "/m", *argv])[0].startswith(says)


def test_a_wrong_bool_in_a_variable_is_refused() -> None:
    found = problems(["--repository", "/m"], {"STARLING_SAMPLE_WARM_UP": "maybe"})
    assert found == ["STARLING_SAMPLE_WARM_UP: found 'maybe'; expected true or false"]


def test_a_flag_without_its_value_is_a_problem_not_an_exit() -> None:
    assert "expected one argument" in problems(["--repository"])[0]


def test_flags_are_not_abbreviated() -> None:
    assert "no such setting" in problems(["--repository", "/m", "--queue", "3"])[0]


def test_contradictions_are_problems_too() -> None:
    found = problems(["--repository", "/m", "--tier", "cloud", "--no-warm-up"])
    assert found == ["settings contradict: --tier cloud needs warm-up; drop --no-warm-up"]


def test_help_shows_flags_defaults_and_variables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for info in describe_settings(Sample):
        assert info.flag in text
        assert info.variable in text
    assert "required" in text
    assert "default: 512" in text
    assert "default: on" in text
    assert "100% is all" in text
    assert "[host, port]" in text
    assert "--no-warm-up turns it off" in text


def test_a_field_that_is_not_a_setting_is_refused() -> None:
    @dataclass(frozen=True)
    class Plain:
        env_prefix: ClassVar[str] = "PLAIN"
        size: int = 1

    with pytest.raises(TypeError, match="not declared with setting"):
        describe_settings(Plain)


def test_a_type_that_cannot_be_read_is_refused() -> None:
    @dataclass(frozen=True)
    class Odd:
        env_prefix: ClassVar[str] = "ODD"
        table: dict[str, str] = setting(help="a table")

    with pytest.raises(TypeError, match="settings cannot be dict"):
        describe_settings(Odd)


def test_checks_say_what_they_expect(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert above(0)(0) == "a number > 0"
    assert above(0)(0.1) is None
    assert not_empty(" ") == "a text that is not empty"
    assert not_empty("x") is None
    assert existing_dir(file) == "a directory that exists"
    assert existing_dir(tmp_path) is None
    assert existing_file(tmp_path) == "a file that exists"
    assert existing_file(file) is None
    assert reachable_port(Address("a", 0)) == "an address with a port from 1 to 65535"
    assert reachable_port(Address("a", 1)) is None
