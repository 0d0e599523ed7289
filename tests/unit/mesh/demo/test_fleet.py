"""Agents send what a scheduler needs to keep only the newest frame, and judge what comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mesh.demo.fleet import Fleet, FleetPlan
from mesh.demo.outcome import Outcome, Verdict
from mesh.demo.video import Video
from services.client import AsyncClient, Prediction, Superseded


class Recorder(AsyncClient):
    """Sends nothing; finds nothing in every second frame, and has a newer one instead of the others."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:1")
        self.frames: list[tuple[str, int]] = []

    async def predict(self, model: str, inputs: Any, *, stream_id: str = "", sequence: int = 0, **_: Any) -> Prediction:
        self.frames.append((stream_id, sequence))
        if sequence % 2:
            raise Superseded("a newer frame took its place")
        nothing = {"boxes": np.zeros((1, 0, 4)), "scores": np.zeros((1, 0)), "classes": np.zeros((1, 0), np.int32)}
        return Prediction(model=model, version=1, outputs=nothing, node="edge-1", total_us=9_000, predicted_us=8_000)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "black.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (480, 432))
    writer.write(np.zeros((432, 480, 3), np.uint8))
    writer.release()
    return path


async def test_every_agent_is_a_stream_whose_sequence_grows(video: Path) -> None:
    plan = FleetPlan(model="m", agents=2, hz=50, seconds=0.2, deadline_ms=100, seed=0)
    clients = [Recorder() for _ in range(plan.agents)]
    outcomes: list[Outcome] = []
    with Video(video) as opened:
        await Fleet(plan, opened, clients, outcomes.append).fly(asyncio.Event())
    for agent, client in enumerate(clients):
        assert client.frames == [(f"agent-{agent}", sequence) for sequence in range(10)]
        await client.close()
    assert {(o.verdict, o.reason) for o in outcomes if o.sequence % 2} == {(Verdict.REJECTED, "SUPERSEDED")}
    answered = [o for o in outcomes if o.node]
    assert len(answered) == 10
    assert {(o.total_ms, o.predicted_ms) for o in answered} == {(9.0, 8.0)}
