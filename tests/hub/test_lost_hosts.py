"""A host that does not respond is asked no more; the others are."""

from __future__ import annotations

import httpx
import pytest

from sparsekit.hub import connection


def test_one_lost_host_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if request.url.host == "gone":
            raise httpx.ConnectError("no such host")
        return httpx.Response(200)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    monkeypatch.setattr(connection, "get_session", lambda: client)
    monkeypatch.setattr(connection, "PAUSE", 0.0)
    with connection.limited_waiting():
        for _ in range(2):
            with pytest.raises(connection.HubError, match="http://gone cannot be reached: no such"):
                client.get("http://gone/rows")
            assert client.get("http://hub:80/rows").status_code == 200
    assert asked == ["gone", "gone", "hub", "hub"]
