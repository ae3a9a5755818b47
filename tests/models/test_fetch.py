"""Checkpoints named by folder or Hub id, and what is said where neither is there."""

from __future__ import annotations

import pytest

from sparsekit.errors import UserError
from sparsekit.models import hub


def test_a_name_that_is_no_folder_while_the_hub_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut_off(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "_download", cut_off)
    with pytest.raises(
        UserError,
        match=r"there is no folder 'runs', and the Hub gives no model .*: no route to host",
    ):
        hub.fetch("runs")
