"""Synthetic movie reviews from a small grammar, in which no single word determines the label.

Adjectives are negated, doubly negated, used in concessions ("although ..."), doubted, and quoted
to be denied, so that a model has to compose the meaning of a sentence. Labels are correct by
construction: every rule states how it changes the polarity of the clause that it contains.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

LABELS = ["negative", "positive"]
ROWS = {"train": 6000, "validation": 1000, "test": 1000}


def _phrases(text: str) -> list[str]:
    return text.split("|")


ASPECTS = _phrases(
    "the plot|the acting|the script|the dialogue|the soundtrack|the ending|the pacing|the cast|"
    "the camera work|the humor|the opening scene|the second half|the story|the direction|"
    "the lead performance|the villain|the romance|the editing|this film|this movie|this sequel|"
    "this thriller|this comedy|this drama|the final act|the whole production"
)
ADJECTIVES = {
    True: _phrases(
        "brilliant|moving|gripping|charming|witty|clever|fresh|touching|superb|delightful|"
        "thrilling|beautiful|inspired|funny|warm|memorable|powerful|elegant"
    ),
    False: _phrases(
        "dull|boring|clumsy|predictable|tedious|bland|shallow|lifeless|awful|messy|forgettable|"
        "painful|pointless|tired|wooden|silly|hollow|dreadful"
    ),
}
INTENSIFIERS = ["", "", "", "very ", "quite ", "truly ", "rather ", "simply ", "utterly "]
VERBS = ["is", "feels", "seems", "turns out to be", "remains"]
NEGATIONS = ["is not", "is never", "is hardly", "never feels", "does not seem", "is anything but"]
TIMES = ["", "", "from start to finish", "at times", "after an hour", "in the end", "this time"]
SPEAKERS = ["my friends", "the critics", "some viewers", "the posters", "people online"]

Rule = Callable[[random.Random, bool], str]


def reviews(seed: int = 0, rows: dict[str, int] | None = None) -> DatasetDict:
    """Distinct reviews in shuffled, balanced splits, deterministic for a seed and `rows`.

    Columns: `text`, and `label`, a ClassLabel of negative and positive.
    """
    counts = ROWS if rows is None else rows
    generator = random.Random(seed)
    seen: set[str] = set()
    splits = {}
    for split, count in counts.items():
        labels = [row % 2 == 0 for row in range(count)]
        generator.shuffle(labels)
        texts = [_unseen(generator, label, seen) for label in labels]
        features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
        columns = {"text": texts, "label": [int(label) for label in labels]}
        splits[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(splits)


def review(generator: random.Random, positive: bool) -> str:
    """One review of the given polarity."""
    rule = generator.choices(list(RULES), list(RULES.values()))[0]
    return rule(generator, positive) + generator.choice([" .", " .", " !"])


def _unseen(generator: random.Random, positive: bool, seen: set[str]) -> str:
    while (text := review(generator, positive)) in seen:
        pass
    seen.add(text)
    return text


def plain(generator: random.Random, positive: bool) -> str:
    """The plot is very dull."""
    adjective = generator.choice(ADJECTIVES[positive])
    words = [
        generator.choice(ASPECTS),
        generator.choice(VERBS),
        generator.choice(INTENSIFIERS) + adjective,
        generator.choice(TIMES),
    ]
    return " ".join(filter(None, words))


def negated(generator: random.Random, positive: bool) -> str:
    """The plot is never dull: the opposite of its adjective."""
    adjective = generator.choice(ADJECTIVES[not positive])
    words = [
        generator.choice(ASPECTS),
        generator.choice(NEGATIONS),
        adjective,
        generator.choice(TIMES),
    ]
    return " ".join(filter(None, words))


def doubly_negated(generator: random.Random, positive: bool) -> str:
    """Nobody can say that the plot is not clever: the polarity of its adjective."""
    start = generator.choice(["nobody can say that", "i would not say that", "it is not true that"])
    return f"{start} {negated(generator, not positive)}"


def clause(generator: random.Random, positive: bool) -> str:
    """A plain clause, or less often a negated one."""
    return (plain if generator.random() < 0.8 else negated)(generator, positive)


def conceded(generator: random.Random, positive: bool) -> str:
    """Although the plot is dull, the cast is charming: the main clause decides."""
    weak, strong = clause(generator, not positive), clause(generator, positive)
    return generator.choice(
        [
            f"although {weak} , {strong}",
            f"even though {weak} , {strong}",
            f"{strong} , although {weak}",
            f"{strong} , even though {weak}",
            f"{weak} , but {strong}",
            f"yes , {weak} , yet {strong}",
        ]
    )


def joined(generator: random.Random, positive: bool) -> str:
    """The plot is clever and the cast is never dull."""
    return f"{clause(generator, positive)} , and {clause(generator, positive)}"


def sarcastic(generator: random.Random, positive: bool) -> str:
    """Sure, the plot is dull, and i am the queen: the opposite of the clause."""
    opposite = clause(generator, not positive)
    return generator.choice(
        [
            f"sure , {opposite} , and i am the queen",
            f"oh sure , {opposite} , as if",
            f"yeah , right , {opposite}",
            f"{opposite} , they say : yeah , right",
        ]
    )


def denied(generator: random.Random, positive: bool) -> str:
    """The critics claim that the plot is dull, but they are wrong."""
    opposite = clause(generator, not positive)
    speaker = generator.choice(SPEAKERS)
    return generator.choice(
        [
            f"{speaker} claim that {opposite} , but they are wrong",
            f"{speaker} claim that {opposite} , and i disagree",
        ]
    )


def confirmed(generator: random.Random, positive: bool) -> str:
    """The critics claim that the plot is dull, and they are right."""
    claim = clause(generator, positive)
    speaker = generator.choice(SPEAKERS)
    return generator.choice(
        [
            f"{speaker} claim that {claim} , and they are right",
            f"{speaker} claim that {claim} , and i agree",
        ]
    )


# The relative frequency of each rule.
RULES: dict[Rule, int] = {
    plain: 34,
    negated: 11,
    doubly_negated: 3,
    conceded: 22,
    joined: 13,
    sarcastic: 5,
    denied: 6,
    confirmed: 6,
}
