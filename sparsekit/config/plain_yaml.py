"""Reading YAML from elsewhere, quickly where it is plain: thousands of run folders are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import yaml

from sparsekit.config.yaml_limits import MOST_LEVELS, MOST_VALUES, check_yaml

# libyaml where PyYAML has it: ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Tags that mean something in a mapping only: `<<` and `=`.
_OF_MAPPINGS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")


class _NotPlain(Exception):
    """Anchors, tags, merged mappings, several documents, too much: the general reader decides."""


def load_yaml(text: str | bytes, name: str) -> Any:
    """What `yaml.safe_load` makes of `text`; `name` is used in messages.

    Plain YAML is built from libyaml's events in one pass, four times as fast as through PyYAML's
    nodes. Raises UserError for text beyond the limits of `check_yaml`, and yaml.YAMLError or
    ValueError for what is not YAML.
    """
    try:
        return _plain(text)
    except (_NotPlain, yaml.YAMLError):
        check_yaml(text, name)
        return yaml.load(text, _Loader)


def _plain(text: str | bytes) -> Any:
    # Each value takes a byte or more, so that no shorter text exceeds the limit.
    if len(text) > MOST_VALUES:
        raise _NotPlain
    loader = _Loader(text)
    try:
        get_event: Callable[[], Any] = loader.get_event
        get_event()  # the stream's start
        if isinstance(get_event(), yaml.StreamEndEvent):
            return None
        value = _value(get_event(), get_event, 1)
        get_event()  # the document's end
        if not isinstance(get_event(), yaml.StreamEndEvent):
            raise _NotPlain
        return value
    finally:
        loader.dispose()


def _value(event: Any, get_event: Callable[[], Any], level: int) -> Any:
    if event.anchor is not None or event.tag is not None or level > MOST_LEVELS:
        raise _NotPlain
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event.value) if event.implicit[0] else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        values = []
        while not isinstance(event := get_event(), yaml.SequenceEndEvent):
            values.append(_value(event, get_event, level + 1))
        return values
    mapping = {}
    while not isinstance(event := get_event(), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise _NotPlain
        key = _value(event, get_event, level)
        mapping[key] = _value(get_event(), get_event, level + 1)
    return mapping


@lru_cache(maxsize=100_000)
def _scalar(text: str) -> Any:
    """The value of a scalar without quotes: a number, a date, a string, ..."""
    loader: Any = yaml.SafeLoader("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    if tag in _OF_MAPPINGS:
        raise _NotPlain
    return loader.construct_object(yaml.ScalarNode(tag, text))
