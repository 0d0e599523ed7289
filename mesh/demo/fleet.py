"""A fleet of agents: each sends what its camera sees on a steady tick and uses answers in time."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mesh.demo.cameras import SIDE_PX, Camera, build_camera
from mesh.demo.outcome import Detection, Outcome, Verdict, judge
from mesh.demo.video import Video
from services.client import AsyncClient, Prediction, StarlingError

_MIN_SCORE = 0.5  # what an agent would act on; below it the small network sees skis and dogs
_WARM_UP_ROUNDS = 3
_WARM_UP_DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What the fleet does.

    Attributes:
        model: detector to ask.
        agents: number of agents, >= 1.
        hz: frames per second of each agent, > 0.
        seconds: length of the measurement, > 0.
        deadline_ms: time after its tick for which an answer is of use, > 0.
        seed: decides cameras and phases.
    """

    model: str
    agents: int
    hz: float
    seconds: float
    deadline_ms: float
    seed: int


class Fleet:
    """Agents that look at one video, each through a client of its own.

    Ticks are kept whatever the answers do: a slow mesh gets no less to do, and a late tick counts against the answer.

    Args:
        plan: what to do.
        video: what the cameras look at.
        clients: one per agent.
        tell: receives every frame's outcome.
    """

    def __init__(
        self,
        plan: FleetPlan,
        video: Video,
        clients: Sequence[AsyncClient],
        tell: Callable[[Outcome], None],
    ) -> None:
        self._plan, self._video, self._clients, self._tell = plan, video, clients, tell
        self._cameras = [build_camera(plan.seed, agent) for agent in range(plan.agents)]
        self._side = min(SIDE_PX, video.width, video.height)

    async def warm_up(self, on_answer: Callable[[], None]) -> None:
        """Sends a few frames of each agent, until connections, windows and caches are as in flight.

        Args:
            on_answer: called once, at the first answer.

        Raises:
            StarlingError: nothing was answered; why not.
        """
        told = False

        async def ask(agent: int) -> StarlingError | None:
            nonlocal told
            try:
                frame, _, _ = self._look(self._cameras[agent], 0.0)
                await self._predict(agent, 0, frame, _WARM_UP_DEADLINE_S)
            except StarlingError as error:
                return error
            if not told:
                told = True
                on_answer()
            return None

        for _ in range(_WARM_UP_ROUNDS):
            errors = await asyncio.gather(*map(ask, range(self._plan.agents)))
            if not told:
                raise next(error for error in errors if error is not None)

    async def fly(self, stop: asyncio.Event) -> float:
        """Flies until the plan's time is over or `stop` is set; returns the seconds flown.

        Frames under way at the end are waited for: each has its outcome.
        """
        clock = time.monotonic
        start = clock()
        end = start + self._plan.seconds
        async with asyncio.TaskGroup() as flights:
            playing = flights.create_task(self._play(start))
            agents = [
                flights.create_task(self._fly_one(agent, start, end, stop, flights))
                for agent in range(self._plan.agents)
            ]
            await asyncio.wait(agents)
            flown_s = min(clock(), end) - start
            playing.cancel()
        return flown_s

    async def _fly_one(
        self,
        agent: int,
        start: float,
        end: float,
        stop: asyncio.Event,
        flights: asyncio.TaskGroup,
    ) -> None:
        # Agents do not tick in step; where in its period each ticks comes from the seed.
        period = 1 / self._plan.hz
        due = start + period * random.Random(f"phase {self._plan.seed} {agent}").random()
        sequence = 0
        while due < end:
            if await _sleep_until(due, stop):
                return
            flights.create_task(self._ask(agent, sequence, start, due))
            sequence += 1
            due += period

    async def _ask(self, agent: int, sequence: int, start: float, due: float) -> None:
        clock, deadline_ms = time.monotonic, self._plan.deadline_ms
        sent = clock()
        frame, x, y = self._look(self._cameras[agent], due - start)
        frame_index = self._video.index
        status, reason, answer = "OK", "", None
        detections: tuple[Detection, ...] = ()
        try:
            left_s = max(0.001, due + deadline_ms / 1e3 - clock())
            answer = await self._predict(agent, sequence, frame, left_s)
            detections = read_detections(answer)
        except StarlingError as error:
            status, reason = error.status, error.reason or error.status
        except (KeyError, IndexError, ValueError):  # an answer that is no detector's
            status, reason = "INTERNAL", "MALFORMED_ANSWER"
        elapsed_ms = (clock() - due) * 1e3
        verdict = judge(elapsed_ms, deadline_ms, status)
        if verdict is Verdict.MISSED and answer is not None:
            reason = "LATE_ANSWER"
        self._tell(
            Outcome(
                agent=agent,
                sequence=sequence,
                due_s=round(due - start, 6),
                lag_ms=round((sent - due) * 1e3, 3),
                elapsed_ms=round(elapsed_ms, 3),
                verdict=verdict,
                reason=reason,
                node=answer.node if answer else "",
                batch_size=answer.batch_size if answer else 0,
                queue_ms=answer.queue_us / 1e3 if answer else 0.0,
                compute_ms=answer.compute_us / 1e3 if answer else 0.0,
                total_ms=answer.total_us / 1e3 if answer else 0.0,
                predicted_ms=answer.predicted_us / 1e3 if answer else 0.0,
                frame_index=frame_index,
                x=x,
                y=y,
                detections=detections,
            )
        )

    async def _predict(self, agent: int, sequence: int, frame: np.ndarray, deadline_s: float) -> Prediction:
        return await self._clients[agent].predict(
            self._plan.model,
            {"frame": frame[None]},
            deadline_s=deadline_s,
            stream_id=f"agent-{agent}",
            sequence=sequence,
        )

    def _look(self, camera: Camera, at_s: float) -> tuple[np.ndarray, int, int]:
        """Returns what a camera sees now, uint8[side, side, 3], and where that is."""
        video, side = self._video, self._side
        x, y = camera.place(at_s, video.width, video.height, side)
        return np.ascontiguousarray(video.frame[y : y + side, x : x + side]), x, y

    async def _play(self, start: float) -> None:
        for number in itertools.count(1):
            await asyncio.sleep(max(0.0, start + number / self._video.fps - time.monotonic()))
            self._video.advance()

    def __repr__(self) -> str:
        """Returns the size and the pace of the fleet."""
        return f"<Fleet agents={self._plan.agents} hz={self._plan.hz:g}>"


def read_detections(answer: Prediction) -> tuple[Detection, ...]:
    """Returns what a detector found in the one frame of a request, best first."""
    found = []
    for box, score, kind in zip(
        answer["boxes"][0].tolist(),
        answer["scores"][0].tolist(),
        answer["classes"][0].tolist(),
        strict=True,
    ):
        if score >= _MIN_SCORE:
            x0, y0, x1, y1 = (round(v, 1) for v in box)
            found.append((x0, y0, x1, y1, round(score, 3), int(kind)))
    return tuple(sorted(found, key=lambda each: -each[4]))


async def _sleep_until(due: float, stop: asyncio.Event) -> bool:
    """Waits for a time; returns early, with True, when `stop` is set."""
    try:
        async with asyncio.timeout(max(0.0, due - time.monotonic())):
            await stop.wait()
    except TimeoutError:
        return False
    return True
