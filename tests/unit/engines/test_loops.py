"""What benchmarks measure of the native core alone: that it is the work it says, not how long it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import CorruptModel, InvalidInput
from engines._core import admission_ns, bare_rows_per_s
from engines.admission_loop import measure
from engines.ssim_loop import measure as measure_ssim


@pytest.mark.parametrize("cold", [False, True])
def test_every_decision_is_timed(cold: bool) -> None:
    spent = admission_ns(queued=8, tenants=3, cold=cold, runs=50)
    assert len(spent) == 50
    assert min(spent) > 0


def test_percentiles_are_in_order() -> None:
    found = measure(queued=0, tenants=1, cold=False, runs=200)
    assert 0 < found["p50_us"] <= found["p99_us"]


@pytest.mark.parametrize("wrong", [{"queued": -1}, {"queued": 1, "tenants": 0}, {"queued": 1, "runs": 0}])
def test_a_case_that_can_not_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="at least"):
        admission_ns(**wrong)


def test_a_bare_loop_without_a_graph_says_so(tmp_path: Path) -> None:
    with pytest.raises(CorruptModel, match=r"none\.onnx"):
        bare_rows_per_s(str(tmp_path / "none.onnx"), rows=1, seconds=0.01)


def test_both_similarities_are_the_same_figure() -> None:
    found = measure_ssim(64, 0.02)
    assert found["ours"] == pytest.approx(found["skimage"], abs=1e-6)
