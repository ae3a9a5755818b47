"""Support tickets with every fault that a first file has."""

from __future__ import annotations

import csv
import random
from pathlib import Path

CLASSES = {"billing": 120, "login": 100, "shipping": 80, "other": 6}
_WORDS = {
    "billing": ["invoice", "charge", "refund", "card", "amount"],
    "login": ["password", "account", "locked", "reset", "sign"],
    "shipping": ["parcel", "late", "address", "courier", "tracking"],
    "other": ["hello", "thanks", "question", "idea", "offer"],
}
# Longer than any max_length of the tests.
LONG = "the parcel was sent and did not arrive " * 30


def ticket_rows(seed: int = 0) -> list[list[str]]:
    """Rows of subject, body and label, without faults."""
    chance = random.Random(seed)
    rows = [
        [
            f"{chance.choice(words)} {chance.choice(words)}",
            f"my {' '.join(chance.choices(words, k=6))} {i}",
            label,
        ]
        for label, words in _WORDS.items()
        for i in range(CLASSES[label])
    ]
    chance.shuffle(rows)
    return rows


def write_tickets(path: Path, *, faulty: bool = True) -> dict[str, list[int]]:
    """Write semicolon-separated tickets, and return the lines of each fault.

    Faults: labels in another case and with blanks, empty cells, a missing body (which is allowed),
    long texts, repeated tickets, one text with two labels, a class with few rows.
    """
    rows = ticket_rows()
    lines: dict[str, list[int]] = {}
    if faulty:
        lines = _spoil(rows)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["subject", "body", "label"])
        writer.writerows(rows)
    return lines


def _spoil(rows: list[list[str]]) -> dict[str, list[int]]:
    def at(label: str, start: int, count: int) -> list[int]:
        found = [i for i, row in enumerate(rows) if row[2] == label]
        return found[start : start + count]

    places = {
        "case": at("billing", 0, 3),
        "blanks": at("login", 0, 4),
        "no subject": at("login", 10, 2),
        "no label": at("login", 20, 1),
        "no body": at("billing", 10, 2),
        "long": at("shipping", 0, 20),
    }
    for i in places["case"]:
        rows[i][2] = "Billing"
    for i in places["blanks"]:
        rows[i][2] += " "
    for i in places["no subject"]:
        rows[i][0] = "  "
    for i in places["no label"]:
        rows[i][2] = ""
    for i in places["no body"]:
        rows[i][1] = ""
    for i in places["long"]:
        rows[i][1] = f"{LONG} {i}"
    copied = at("shipping", 30, 5)
    rows += [[rows[i][0].upper(), rows[i][1] + "!", rows[i][2]] for i in copied]
    places["repeated"] = list(range(len(rows) - 5, len(rows)))
    twice = at("shipping", 40, 1)[0]
    rows.append([rows[twice][0], rows[twice][1], "login"])
    places["contradiction"] = [twice, len(rows) - 1]
    # The header is line 1.
    return {fault: [i + 2 for i in found] for fault, found in places.items()}
