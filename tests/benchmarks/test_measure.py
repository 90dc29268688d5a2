"""Timing, agreement, memory, extrapolation and class names."""

import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import machine, measure, record
from benchmarks.class_names import class_names
from benchmarks.measure import SHARE, largest_fitting, line, relative_error, require
from clip import encode
from clip.memory import free_memory


def test_measure_alternates_and_leaves_the_first_run_out():
    calls = []
    times = measure.measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert all(len(side["runs"]) == 3 and side["seconds"] == sorted(side["runs"])[1] for side in times.values())


@pytest.mark.parametrize(
    ("run_sec", "budget_sec", "expected"),
    [(1, 99, 5), (1, 3, 3), (1, 0, 1), (20, 50, 3), (20, 10, 1), (20, 0, 1), (20, 999, 5)],
)
def test_measure_keeps_to_the_budget_and_counts_a_first_run_that_used_it_up(monkeypatch, run_sec, budget_sec, expected):
    clock = iter(range(0, 10**6, run_sec))  # every look at it is a run later
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    calls = []
    times = measure.measure({"a": lambda: calls.append(1)}, repeats=5, budget_sec=budget_sec)
    assert times["a"]["runs"] == [run_sec] * expected
    assert len(calls) == expected + (run_sec < max(budget_sec, measure.LONG_SEC))


def test_measure_gives_what_the_functions_returned():
    results = {}
    measure.measure({"a": lambda: 3, "b": lambda: 4}, 1, results=results)
    assert results == {"a": 3, "b": 4}


def test_relative_error_is_the_worst_tensor_by_its_largest_value():
    a, b = torch.tensor([1.0, -10.0]), torch.tensor([0.001, 0.002])
    assert relative_error([a, b], [a, b]) == 0
    assert relative_error([a + 1e-3, b], [a, b]) == pytest.approx(1e-4, rel=1e-3)
    assert relative_error([a, b * 1.5], [a, b]) == pytest.approx(0.5)
    assert relative_error([torch.ones(2)], [torch.zeros(2)]) == 1
    assert relative_error([a, b * 1.5], [a, b], zero=1e-3) == pytest.approx(1e-4)  # b counts as zero here


@pytest.mark.parametrize("error", [2e-5, math.inf, math.nan])
def test_disagreement_stops_the_benchmark(error):
    with pytest.raises(SystemExit, match="a case: ours differs from the naive reference .* limit 1e-05"):
        require(error, 1e-5, "a case")
    assert require(1e-6, 1e-5, "a case") == 1e-6


def take(size):
    bytearray(b"x" * size)


def fail():
    raise RuntimeError("something else")


def out_of_memory():
    raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")


def test_peaks_are_of_a_process_of_their_own():
    held = bytearray(b"x" * 300_000_000)  # this process's memory does not count
    small, large = measure.peak_bytes(take, 10), measure.peak_bytes(take, 200_000_000)
    assert len(held) and small < large
    assert 1.9e8 < large - small < 6e8


def test_what_does_not_fit_has_no_peak_and_other_errors_are_raised():
    assert measure.peak_bytes(out_of_memory) is None
    with pytest.raises(RuntimeError, match="something else"):
        measure.peak_bytes(fail)


def test_line_goes_through_both_ends_and_never_falls():
    costs = line([(2, 10.0), (5, 16.0)])
    assert costs(5) == 16 and costs(2) == 10 and costs(50) == 16 + 45 * 2
    assert line([(2, 10.0), (3, 99.0), (5, 16.0)])(50) == 106
    assert line([(2, 10.0), (5, 9.0)])(50) == 9
    assert line([(2, 10.0), (5, None)])(2) == line([(2, None), (5, 10.0)])(50) == math.inf
    with pytest.raises(ValueError, match="two rising sizes, got \\[5, 5\\]"):
        line([(5, 1.0), (5, 2.0)])


@pytest.mark.parametrize(("available", "expected"), [(1e9, 50), (40, 12), (14, 2), (8 / SHARE, 1), (7.9 / SHARE, 0)])
def test_largest_fitting_leaves_a_reserve(available, expected):
    assert largest_fitting(50, lambda classes: 6 + 2 * classes, available) == expected
    assert largest_fitting(50, lambda _: math.inf, available) == 0


def test_class_names_are_distinct_stable_and_not_shorter_than_imagenets():
    names = class_names(1000)
    assert names[:50] == class_names(50) and len(set(names)) == 1000
    tokens = [tuple(encode(name + ".")) for name in names]
    nodes = {ids[: i + 1] for ids in tokens for i in range(len(ids))}
    assert len(nodes) / 1000 + 1 >= 4.0  # ImageNet's names: 4.0 tokens a class that no other name begins with
    assert 2.2 < sum(len(ids) - 1 for ids in tokens) / 1000 < 3.2
    assert {len(name.split()) for name in names} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", "intel-xeon-platinum-8481c"),
        ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("", "machine"),
    ],
)
def test_slug(name, short):
    assert machine.slug(name) == short


def test_the_machine_is_described_and_has_memory_and_rates():
    about = machine.describe("cpu")
    assert about["short"].endswith(f"{about['cores']}-cores") and about["torch"] == torch.__version__
    assert 0 < free_memory(torch.device("cpu")) <= about["memory_bytes"]
    probe = machine.Probe("cpu", "fp32", quick=True)
    measure.measure({"a": lambda: None, "b": lambda: None}, 2, probe=probe)
    assert len(probe.samples) == 6
    rates = probe.take()
    assert set(rates) == {"matmul_flops", "copy_bytes"} and all(value > 1e6 for value in rates.values())
    assert not probe.samples and probe.take()


CHILDREN = {
    "working": "measure.peak_bytes(time.sleep, 600)",
    # The argument never arrives: pickling it takes longer than the parent lives.
    "waiting for work": "measure.peak_bytes(print, type('Slow', (), {'__reduce__': lambda _: time.sleep(600)})())",
}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list a process's children")
@pytest.mark.parametrize("call", CHILDREN.values(), ids=CHILDREN)
def test_a_child_ends_with_the_process_that_asked_for_it(call):
    code = f"import time; from benchmarks import measure; {call}"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=record.ROOT)

    def below(pid):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    def alive(pid):
        return Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()

    try:
        (child,) = wait_for(lambda: [grandchild for server in below(parent.pid) for grandchild in below(server)])
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not alive(child))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except OSError:  # a process that ended meanwhile
            pass
        time.sleep(0.1)
    raise AssertionError("it did not happen")
