"""The control plane follows its security file, and keeps what it has while the file is bad."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.control.security_file import follow_security
from mesh.gateway.security import NoSecurityPlan, Rate, SecurityPlan, read_security, write_security
from tests.support.security import PLAN

_PLAN = replace(PLAN, rate_by_tenant={"gold": Rate(10, 20)})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_security(write_security(_PLAN, tmp_path / "plan.json")) == _PLAN


def test_keys_are_read_where_they_are_kept(tmp_path: Path) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text("new")
    path = write_security(_PLAN, tmp_path / "plan.json", keys_file=keys)
    assert json.loads(path.read_text())["keys"] == {"file": str(keys)}
    assert read_security(path) == replace(_PLAN, keys="new")


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"keys": "x"}', '{"keys": {"uri": "x", "address": "y"}}'])
def test_what_is_no_plan_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(NoSecurityPlan, match=f"{path} is no security plan: .*; write one with `starling up --secure`"):
        read_security(path)


async def test_changes_are_handed_over_and_bad_files_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_security(_PLAN, tmp_path / "plan.json")
    taken: asyncio.Queue[SecurityPlan] = asyncio.Queue()
    with caplog.at_level(logging.INFO):
        following = asyncio.create_task(follow_security(path, _PLAN, [taken.put_nowait], every_s=0.01))
        async with asyncio.timeout(10):
            faster = replace(_PLAN, rate=Rate(7, 7))
            write_security(faster, path)
            assert await taken.get() == faster
            path.write_text("{")
            while "keeping the security plan of before" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            path.write_text('{"keys": "x"}')
            while "is no security plan" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            write_security(_PLAN, path)
            assert await taken.get() == _PLAN
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
    assert taken.empty()
