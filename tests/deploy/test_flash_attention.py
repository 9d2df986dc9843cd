"""Which FlashAttention computes: the fastest of those that are installed and right."""

import pytest
import torch
from torch.nn import attention as hooks

from flowmo.deploy import flash_attention
from flowmo.deploy.flash_attention import AttentionShape, use_fastest_flash_attention

SHAPE = AttentionShape(
    heads=2, tokens=8, head_dim=4, dtype=torch.bfloat16, device=torch.device("cuda")
)


class Process:
    """PyTorch's hooks, without packages or a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[str | None, float]) -> None:
        self.active: str | None = None
        self.wrong: set[str] = set()
        self.broken: set[str] = set()
        for name, double in (
            ("activate_flash_attention_impl", self.activate),
            ("restore_flash_attention_impl", lambda: self.activate(None)),
            ("current_flash_attention_impl", lambda: self.active),
        ):
            monkeypatch.setattr(hooks, name, double)
        monkeypatch.setattr(flash_attention, "find_spec", lambda _: object())
        monkeypatch.setattr(flash_attention, "_seconds", lambda _: seconds.get(self.active))
        monkeypatch.setattr(flash_attention, "_is_right", lambda _: self.active not in self.wrong)

    def activate(self, name: str | None) -> None:
        if name in self.broken:
            raise ImportError(f"{name} was built for another PyTorch")
        self.active = name


@pytest.mark.parametrize(
    ("seconds", "wrong", "broken", "expected"),
    [
        ({None: 3.0, "FA3": 2.0, "FA4": 1.0}, set(), set(), "FA4"),
        ({None: 3.0, "FA3": 2.0, "FA4": 1.0}, {"FA4"}, set(), "FA3"),
        ({None: 3.0, "FA3": 2.0, "FA4": 1.0}, {"FA4"}, {"FA3"}, None),
        ({None: 1.0, "FA3": 2.0, "FA4": 3.0}, set(), set(), None),
        ({"FA3": 2.0}, set(), set(), "FA3"),  # PyTorch's own refuses, and so does FA4
    ],
)
def test_the_fastest_that_is_right(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[str | None, float],
    wrong: set[str],
    broken: set[str],
    expected: str | None,
) -> None:
    process = Process(monkeypatch, seconds)
    process.wrong, process.broken = wrong, broken
    assert use_fastest_flash_attention(SHAPE) == expected
    assert process.active == expected


def test_what_is_not_installed_is_not_tried() -> None:
    assert {"FA3", "FA4"} <= set(hooks.list_flash_attention_impls())
    assert flash_attention.installed() == []
