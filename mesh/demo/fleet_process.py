"""The fleet as a process of its own, so that its clocks feel no other Python code.

It prints `ready`, waits for a line `go HOST:PORT` on standard input, then prints one message per
line, see `mesh.demo.messages`. SIGTERM ends the flight early; frames under way still get their
outcome.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mesh.demo.fleet import Fleet, FleetPlan
from mesh.demo.messages import Ended, FirstAnswer, Message, Started, write_message
from mesh.demo.video import Video
from mesh.errors import MeshError
from mesh.interrupt import Interrupted, unless, watch_interrupts
from services.client import AsyncClient, ModelInfo, StarlingError
from services.host import SettingsError, above, at_least, read_settings, setting

_NEEDED_OUTPUTS = {"boxes", "scores", "classes"}


@dataclass(frozen=True, slots=True)
class FleetSettings:
    """Settings of the fleet's process."""

    env_prefix: ClassVar[str] = "FLEET"

    video: Path = setting(help="video under the cameras")
    model: str = setting(help="detector to ask")
    agents: int = setting(help="number of agents", check=at_least(1))
    hz: float = setting(help="frames per second of each agent", check=above(0))
    seconds: float = setting(help="length of the measurement", check=above(0))
    deadline_ms: float = setting(help="time an answer may take", check=above(0))
    seed: int = setting(0, help="decides cameras and phases")


class NotADetector(MeshError):
    """The model has not the outputs of a detector."""

    status = "INVALID_ARGUMENT"
    reason = "NOT_A_DETECTOR"

    def __init__(self, model: ModelInfo) -> None:
        outputs = ", ".join(str(each) for each in model.outputs) or "none"
        super().__init__(
            f"model {model.name}:{model.version} has the outputs {outputs}; the demo needs a "
            "detector with boxes, scores and classes, such as nanodet"
        )


async def run(settings: FleetSettings) -> None:
    """Runs the process from its ready line to its last message.

    Raises:
        MeshError: the video or the model cannot be used.
        StarlingError: the mesh answered nothing during warm-up.
    """
    with Video(settings.video) as video:
        async with watch_interrupts() as stop:
            print("ready", flush=True)
            target = await unless(stop, _read_target())
            async with AsyncExitStack() as stack:
                clients = [
                    await stack.enter_async_context(AsyncClient(target, agent_id=f"agent-{n}"))
                    for n in range(settings.agents)
                ]
                fleet = Fleet(_build_plan(settings), video, clients, _tell)
                model = await unless(stop, _read_model(clients[0], settings.model))
                await unless(stop, fleet.warm_up(lambda: _tell(FirstAnswer())))
                _tell(_describe(model))
                _tell(Ended(await fleet.fly(stop)))


def main(argv: Sequence[str]) -> int:
    """Runs the process; returns its exit status."""
    try:
        settings = read_settings(
            FleetSettings,
            argv,
            os.environ,
            prog="python -m mesh.demo.fleet_process",
            description=__doc__ or "",
        )
        asyncio.run(run(settings))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except (MeshError, StarlingError) as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted:
        return 0
    return 0


async def _read_target() -> str:
    """Returns HOST:PORT from the line `go HOST:PORT` on standard input.

    Raises:
        Interrupted: the input ended; whoever started us has gone.
    """
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    word, _, target = (await reader.readline()).decode().strip().partition(" ")
    if word != "go":
        raise Interrupted
    return target


async def _read_model(client: AsyncClient, name: str) -> ModelInfo:
    await client.wait_until_connected(deadline_s=10.0)
    model = await client.model(name, deadline_s=10.0)
    if not {tensor.name for tensor in model.outputs} >= _NEEDED_OUTPUTS:
        raise NotADetector(model)
    return model


def _describe(model: ModelInfo) -> Started:
    return Started(
        {
            "name": model.name,
            "version": model.version,
            "engine": model.engine,
            "license": model.license,
        },
        model.labels_by_output.get("classes", ()),
    )


def _build_plan(settings: FleetSettings) -> FleetPlan:
    return FleetPlan(
        model=settings.model,
        agents=settings.agents,
        hz=settings.hz,
        seconds=settings.seconds,
        deadline_ms=settings.deadline_ms,
        seed=settings.seed,
    )


def _tell(message: Message) -> None:
    print(write_message(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
