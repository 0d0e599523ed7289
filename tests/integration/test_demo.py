"""The demo as a user runs it: a process, its files, its exit status, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.processes import find_processes, wait_for_none
from tests.support.waiting import wait_until

_FAKE_MESH = Path(__file__).parents[1] / "support" / "fake_mesh.py"
_STARLING = (sys.executable, "-P", "-m", "services.host.cli")
_START_S = 60.0
_NODES = ("edge-1", "edge-2", "cloud-1")
_WARM_UP_ROUNDS = 3
_SUMMARY = {"sent", "answered", "missed", "rejected", "failed", "throughput_rps"}
_SUMMARY |= {"p50_ms", "p95_ms", "p99_ms"}


class Demo:
    """A demo in a folder of its own; every process of it has the folder in its command line."""

    def __init__(self, folder: Path, command: Sequence[str], flags: Sequence[str]) -> None:
        self.folder = folder
        self.out = folder / "out"
        common = ("--gateway", "127.0.0.1:0", "--out", str(self.out), "--model", "nanodet-small")
        self.process = subprocess.Popen(
            [*command, *common, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
        )

    def wait_for(self, words: str) -> None:
        """Reads the output up to a line with the given words."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words in line:
                return
        raise AssertionError(f"no {words!r}; {self.process.communicate()}")

    def fly(self, agents: int, frames: int) -> None:
        """Waits until the fleet is in flight and its fake nodes were sent so many frames."""
        self.wait_for("first frame answered")
        files = [self.folder / "repository" / f"{node}.calls" for node in _NODES]

        def has_sent() -> bool:
            return sum(int(file.read_text()) for file in files if file.exists()) >= _WARM_UP_ROUNDS * agents + frames

        assert wait_until(has_sent)

    def end(self) -> tuple[int, str, str]:
        """Waits for the end; returns the exit status and the rest of the output."""
        out, err = self.process.communicate(timeout=_START_S)
        return self.process.returncode, out, err

    def read_report(self) -> dict[str, Any]:
        """Returns report.json."""
        report: dict[str, Any] = json.loads((self.out / "report.json").read_text())
        return report


StartDemo = Callable[..., Demo]


@pytest.fixture
def start_demo(tmp_path: Path) -> StartDemo:
    """Returns a function that starts a demo with fake nodes over a made-up video."""
    video = tmp_path / "noise.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (480, 432))
    rng = np.random.default_rng(0)
    for _ in range(20):
        writer.write(np.repeat(rng.integers(0, 255, (432, 480, 1), np.uint8), 3, axis=2))
    writer.release()
    repository = tmp_path / "repository"
    for model in ("nanodet-small", "corrupt"):
        (repository / model).mkdir(parents=True)
        (repository / model / "config.pbtxt").touch()

    def start(*flags: str) -> Demo:
        command = (sys.executable, str(_FAKE_MESH), "demo")
        places = ("--repository", str(repository), "--video", str(video))
        return Demo(tmp_path, command, (*places, *flags))

    return start


def test_a_short_demo_reports_and_leaves_nothing_behind(start_demo: StartDemo, tmp_path: Path) -> None:
    demo = start_demo("--agents", "4", "--hz", "5", "--seconds", "2")
    exit_code, out, err = demo.end()
    assert (exit_code, err) == (0, "")
    assert "first frame answered after" in out
    report = demo.read_report()
    assert report.keys() >= _SUMMARY
    assert report["sent"] == 40
    assert report["failed"] == report["rejected"] == 0
    assert report["answered"] + report["missed"] == 40
    assert {"edge-1", "edge-2", "cloud-1"} <= report["nodes"].keys()
    assert all(node.keys() >= _SUMMARY for node in report["nodes"].values())
    assert sum(node["sent"] for node in report["nodes"].values()) == 40
    assert report["first_answer_s"] > 0
    assert (report["machine"]["cores"], report["interrupted"]) == (
        len(os.sched_getaffinity(0)),
        False,
    )
    sheet = cv2.imread(str(demo.out / "report.png"))
    assert sheet is not None
    assert sheet.shape[1] > 1000
    assert f"wrote {demo.out / 'photo.jpg'}" in out
    photo = cv2.imread(str(demo.out / "photo.jpg"))
    assert photo is not None
    assert photo.shape == (432, 480, 3)
    assert wait_for_none(str(tmp_path)) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_demo_with_a_partial_report(
    start_demo: StartDemo, tmp_path: Path, number: signal.Signals
) -> None:
    demo = start_demo("--agents", "4", "--seconds", "60")
    demo.fly(4, frames=20)
    demo.process.send_signal(number)
    exit_code, _, err = demo.end()
    assert (exit_code, err) == (0, "")
    report = demo.read_report()
    assert report["interrupted"]
    assert report["failed"] == 0
    assert 0 < report["sent"] == report["answered"] + report["missed"] + report["rejected"]
    assert report["measured_s"] < 30
    assert wait_for_none(str(tmp_path)) == {}


def test_an_interrupt_during_the_start_leaves_nothing_behind(start_demo: StartDemo, tmp_path: Path) -> None:
    demo = start_demo()
    demo.wait_for("starting 2 edge")
    demo.process.send_signal(signal.SIGINT)
    exit_code, out, _ = demo.end()
    assert exit_code == 130
    assert "nothing to report" in out
    assert wait_for_none(str(tmp_path)) == {}


def test_a_killed_demo_takes_its_processes_with_it(start_demo: StartDemo, tmp_path: Path) -> None:
    demo = start_demo("--seconds", "60")
    demo.wait_for("first frame answered")
    demo.process.kill()
    demo.end()
    assert wait_for_none(str(tmp_path)) == {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_node_that_leaves_loses_no_frame(start_demo: StartDemo, tmp_path: Path, number: signal.Signals) -> None:
    demo = start_demo("--agents", "6", "--seconds", "4", "--deadline-ms", "1000")
    demo.fly(6, frames=12)
    (pid,) = find_processes("--name edge-1").keys() & find_processes(str(tmp_path)).keys()
    os.kill(pid, number)
    exit_code, _, err = demo.end()
    assert (exit_code, err) == (0, "")
    report = demo.read_report()
    assert report["failed"] == report["rejected"] == 0
    assert report["answered"] + report["missed"] == report["sent"] == 96
    assert len(report["events"]) == 1
    assert "edge-1 ended with status" in report["events"][0]


def test_a_taken_port_is_an_error_before_anything_starts(start_demo: StartDemo, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start_demo("--gateway", f"127.0.0.1:{port}")
        exit_code, out, err = demo.end()
    assert exit_code == 1
    assert f"cannot listen on 127.0.0.1:{port}: another process has it" in err
    assert f"--gateway 127.0.0.1:{port + 10}" in err
    assert "starting" not in out
    assert wait_for_none(str(tmp_path)) == {}


def test_a_node_that_cannot_start_is_quoted(start_demo: StartDemo, tmp_path: Path) -> None:
    demo = start_demo("--model", "corrupt")
    exit_code, _, err = demo.end()
    assert exit_code == 1
    assert "ended with exit status 1 while starting; its last lines:" in err
    assert "corrupt:1 model.onnx is not what its manifest says" in err
    assert wait_for_none(str(tmp_path)) == {}


def test_a_mesh_that_answers_nothing_is_an_error(start_demo: StartDemo, tmp_path: Path) -> None:
    for node in _NODES:
        (tmp_path / "repository" / f"{node}.reject").touch()
    demo = start_demo("--seconds", "1")
    exit_code, _, err = demo.end()
    assert exit_code == 1
    assert "fleet ended with exit status 1" in err
    assert "is full" in err
    assert wait_for_none(str(tmp_path)) == {}


def test_refused_frames_are_rejected_and_not_failed(start_demo: StartDemo, tmp_path: Path) -> None:
    demo = start_demo("--agents", "4", "--seconds", "4")
    demo.fly(4, frames=12)
    for node in _NODES:
        (tmp_path / "repository" / f"{node}.reject").touch()
    exit_code, _, _ = demo.end()
    report = demo.read_report()
    assert (exit_code, report["failed"]) == (0, 0)
    assert report["answered"] > 0 < report["rejected"]
    assert report["nodes"]["nobody"]["rejected"] == report["rejected"]


@pytest.mark.parametrize("reason", ["DEADLINE_UNMEETABLE", "SUPERSEDED"])
def test_what_the_scheduler_refuses_is_rejected_and_named(start_demo: StartDemo, tmp_path: Path, reason: str) -> None:
    demo = start_demo("--agents", "4", "--seconds", "3")
    demo.fly(4, frames=12)
    for node in _NODES:
        (tmp_path / "repository" / f"{node}.reject").write_text(reason)
    exit_code, out, _ = demo.end()
    report = demo.read_report()
    assert (exit_code, report["failed"]) == (0, 0)
    assert report["rejected"] == report["reasons"][reason] > 0
    assert f"{reason} x{report['rejected']}" in out
    assert 0.9 <= report["prediction_error_p50_ms"] <= 1.1


def test_a_video_that_is_not_there_is_an_error_before_anything_starts(start_demo: StartDemo, tmp_path: Path) -> None:
    exit_code, out, err = start_demo("--video", str(tmp_path / "none.avi")).end()
    assert exit_code != 0
    assert f"--video {tmp_path / 'none.avi'} is not there" in err
    assert "starting" not in out


def test_a_file_that_is_no_video_is_named(start_demo: StartDemo, tmp_path: Path) -> None:
    bad = tmp_path / "bad.avi"
    bad.write_text("no video")
    exit_code, _, err = start_demo("--video", str(bad)).end()
    assert exit_code == 1
    assert f"found a file that is no video at {bad}" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")
def test_a_demo_over_real_links_says_what_they_carried(start_demo: StartDemo, tmp_path: Path) -> None:
    flags = ("--testbed", "--rtt-ms", "30", "--jitter-ms", "2", "--deadline-ms", "5000")
    demo = start_demo("--agents", "4", "--hz", "5", "--seconds", "2", *flags)
    exit_code, out, err = demo.end()
    assert (exit_code, err) == (0, "")
    assert "links: network namespaces joined by TUN devices" in out
    report = demo.read_report()
    assert report["sent"] == report["answered"] == 40
    lanes = {(lane["from"], lane["to"]): lane for lane in report["testbed"]["lanes"]}
    assert len(lanes) == 8
    cloud = lanes["gateway", "cloud-1"]
    assert (cloud["delay_ms"], cloud["jitter_ms"], cloud["lost"]) == (15, 2, 0)
    assert cloud["packets"] > 0  # health checks at least
    frames_bytes = 40 * 416 * 416 * 3
    assert lanes["agents", "gateway"]["bytes"] > frames_bytes
    to_nodes = sum(lane["bytes"] for (origin, to), lane in lanes.items() if origin == "gateway" and to != "agents")
    assert to_nodes > frames_bytes
    # What the agents saw holds the radio's and, for the cloud, the region's way there and back.
    assert report["p50_ms"] >= 2 * 0.5
    if report["nodes"]["cloud-1"]["answered"]:
        assert report["nodes"]["cloud-1"]["p50_ms"] >= 2 * (13 + 0.5)
    assert wait_for_none(str(tmp_path)) == {}
    assert wait_for_none(f"demo-{demo.process.pid}") == {}


@pytest.mark.assets
def test_real_nodes_find_people_and_lose_no_frame_when_one_leaves(tmp_path: Path) -> None:
    flags = ("--agents", "4", "--hz", "3", "--seconds", "10", "--deadline-ms", "1000")
    demo = Demo(tmp_path, (*_STARLING, "demo"), flags)
    demo.wait_for("  sent ")  # after five seconds
    nodes = find_processes("--name edge-1")
    (pid,) = (pid for pid in nodes if os.getsid(pid) == demo.process.pid)
    os.kill(pid, signal.SIGTERM)
    exit_code, out, err = demo.end()
    assert exit_code == 0, out + err
    report = demo.read_report()
    assert report["failed"] == report["rejected"] == 0
    assert report["sent"] == 120
    assert report["answered"] > 60
    assert ["edge-1 ended with status 0" in event for event in report["events"]] == [True]
    assert wait_for_none(str(tmp_path)) == {}
