import psutil
import torch

from clip.memory import free_memory


def test_free_memory_is_what_the_system_says_or_a_containers_limit_below_it(monkeypatch):
    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    assert 0 <= free_memory(torch.device("cpu")) <= 1000


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    import clip.memory

    for name, text in {"memory.max": "900\n", "memory.current": "500\n", "memory.stat": "inactive_file 50\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(clip.memory, "Path", lambda _: tmp_path)
    assert free_memory(torch.device("cpu")) == 900 - 500 + 50
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > 900
