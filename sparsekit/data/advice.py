"""Problems of a data set that would spoil the result of training, each with its fix."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# Classes with fewer training rows are hardly learned.
FEW = 10
# A class with a larger share of the rows makes accuracy say little.
MAJORITY = 0.8
# Shares of rows, tokens and letters from which on they are worth a warning.
CUT, UNKNOWN, OTHER_SCRIPT = 0.01, 0.01, 0.05
# Fewer repeated texts change no result that the size of a split could show.
REPEATED = 0.01
# Names that are listed.
_SHOWN = 10
_PLAIN = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)
# Words that Hydra reads as something other than text.
_WORDS = {"null", "true", "false", "nan", "inf", "none", "yes", "no", "on", "off"}


def warnings(figures: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """A sentence for each problem that the figures show, and the override that fixes it, if any.

    figures: those of `profile`, with token lengths; metrics: the names in `dataset.metrics`.
    """
    return [
        *_rare(figures),
        *_missing(figures),
        *_majority(figures, metrics),
        *_cut(figures),
        *_unknown(figures),
        *_leaked(figures),
        *_near(figures),
        *_contradictions(figures),
        *_repeated(figures),
        *_scripts(figures),
    ]


def _rare(figures: Mapping[str, Any]) -> Iterator[str]:
    counts = figures["splits"]["train"].get("classes", {})
    rare = {name: count for name, count in counts.items() if count < FEW}
    if not rare:
        return
    listed = ", ".join(f"{name!r} ({count})" for name, count in list(rare.items())[:_SHOWN])
    more = f" and {len(rare) - _SHOWN} more" if len(rare) > _SHOWN else ""
    fix = "add rows, or weight them: training.class_weights=balanced"
    if len(counts) - len(rare) >= 2:
        fix = f"add rows, or leave them out: {drop_labels(list(rare))}"
    yield f"classes with fewer than {FEW} training rows are hardly learned: {listed}{more}; {fix}"


def _missing(figures: Mapping[str, Any]) -> Iterator[str]:
    counts = figures["splits"]["train"].get("classes", {})
    for split, each in figures["splits"].items():
        missing = [name for name in counts if not each.get("classes", {name: 1}).get(name, 0)]
        if split != "train" and missing:
            yield (
                f"{split} has no row of {', '.join(map(repr, missing[:_SHOWN]))}, so that its "
                "scores say nothing about them; add rows"
            )


def _majority(figures: Mapping[str, Any], metrics: Sequence[str]) -> Iterator[str]:
    train = figures["splits"]["train"]
    if not train.get("classes") or set(metrics) != {"accuracy"}:
        return
    name, count = max(train["classes"].items(), key=lambda item: item[1])
    share = count / train["rows"]
    if share >= MAJORITY:
        yield (
            f"{share:.1%} of the training rows are {name!r}: a model that always says so has that "
            "accuracy; set 'dataset.metrics=[accuracy,f1_macro]' training.class_weights=balanced"
        )


def _cut(figures: Mapping[str, Any]) -> Iterator[str]:
    for split, each in figures["splits"].items():
        tokens = each.get("tokens")
        if tokens is None or tokens["cut"] < CUT * each["rows"]:
            continue
        now, limit = figures["max_length"], figures["longest_input"]
        wanted = 2 ** (tokens["p99"] - 1).bit_length()
        better = min(wanted, limit) if limit else wanted
        fix = (
            f"dataset.max_length={better}"
            if better > now
            else "the student reads no more; shorten the texts"
        )
        yield (
            f"{tokens['cut'] / each['rows']:.1%} of {split} is longer than {now} tokens and is cut "
            f"there (99 % have {tokens['p99']} or fewer): {fix}"
        )
        return


def _unknown(figures: Mapping[str, Any]) -> Iterator[str]:
    tokens = figures["splits"]["train"].get("tokens") or {}
    if tokens.get("unknown", 0) >= UNKNOWN:
        yield (
            f"{tokens['unknown']:.1%} of the training tokens are unknown to the student's "
            "tokenizer; choose a student of the language of the texts"
        )


def _leaked(figures: Mapping[str, Any]) -> Iterator[str]:
    for split, each in figures["splits"].items():
        found = each.get("in_train", {}).get("rows", 0)
        if found and found >= REPEATED * each["rows"]:
            yield (
                f"{found} rows of {split} have a text that is also in train, so that its scores "
                f"are too good ({each['in_train']['where']}): dataset.drop_leaked=true"
            )


def _near(figures: Mapping[str, Any]) -> Iterator[str]:
    for split, each in figures["splits"].items():
        near = each.get("near_train", {"rows": 0})
        if near["rows"] and near["rows"] >= REPEATED * each["rows"]:
            yield (
                f"{near['rows']} rows of {split} are near-duplicates of training rows, so that its "
                f"scores may be too good ({near['where']}; the first one's is {near['like']}): "
                "dataset.drop_leaked=near"
            )


def _contradictions(figures: Mapping[str, Any]) -> Iterator[str]:
    for split, each in figures.get("contradictions", {}).items():
        if each["rows"]:
            yield (
                f"{each['rows']} rows of {split} have a text that has another label elsewhere: "
                f"correct them ({each['where']})"
            )


def _repeated(figures: Mapping[str, Any]) -> Iterator[str]:
    train = figures["splits"]["train"]
    found = train["repeated"]["rows"]
    if found and found >= REPEATED * train["rows"]:
        yield (
            f"{found} training rows repeat the text of an earlier one, so that it counts more than "
            f"once ({train['repeated']['where']}); remove what is not meant"
        )


def _scripts(figures: Mapping[str, Any]) -> Iterator[str]:
    shares = figures["scripts"]
    several = [name for name, share in shares.items() if share >= OTHER_SCRIPT]
    if len(several) > 1 or (several and several != ["Latin"]):
        listed = ", ".join(f"{shares[name]:.0%} {name}" for name in several)
        yield f"the letters of train are {listed}: choose a student that knows them"


def drop_labels(names: Sequence[str]) -> str:
    """The override that leaves classes out, as a shell reads it.

    >>> drop_labels(["rare", "two words"])
    '\\'dataset.drop_labels=[rare,"two words"]\\''
    """
    return shlex.quote(f"dataset.drop_labels=[{','.join(map(_word, names))}]")


def _word(name: str) -> str:
    """A text as Hydra reads it in a list."""
    if _PLAIN.fullmatch(name) and name.lower() not in _WORDS:
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
