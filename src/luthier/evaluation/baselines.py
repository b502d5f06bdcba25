"""What the tuned model must justify itself against, besides its own base: word counts, and three examples.

tfidf        TF-IDF of words and word pairs, logistic (for a number: ridge) regression; fitted on the train split. Seconds, no GPU.
base_3shot   the base model with three training examples as earlier turns of the conversation.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from luthier.core.errors import DataError, missing_part
from luthier.core.units import plain_number

from .metrics import number_in
from .questions import Message, Question, asked_text
from .tasks import Answer, answer_from

SHOTS = 3
TIMED = 20  # word counts take milliseconds


def tfidf(
    train: Sequence[Mapping[str, Any]], questions: Sequence[Question], labels: Sequence[str], seed: int
) -> list[Answer]:
    """One answer per question, with probabilities in label order (a label without a training row has 0).

    `train` holds records; what is read of a conversation is everything but the system message and the last answer.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise missing_part("scikit-learn", "train", "The baseline tfidf") from None
    truth = [record["label"] for record in train]
    if len(set(truth)) < 2:
        raise DataError(
            f"the train split holds {len(set(truth))} label(s), so the baseline tfidf cannot be fitted.",
            remedy="Check data.sources and data.split, or leave tfidf out of evaluate.against.",
        )
    # C=10: TF-IDF rows have length one, and the usual C=1 shrinks their weights too far to be a fair opponent.
    model = make_pipeline(_word_counts(), LogisticRegression(C=10.0, max_iter=1000, random_state=seed))
    _fit(model, train, truth)
    asked = [asked_text(question.prompt or ()) for question in questions]
    found = model.predict_proba(asked)
    place = {label: i for i, label in enumerate(model.classes_)}
    answers = [
        answer_from([float(row[place[label]]) if label in place else 0.0 for label in labels], labels)
        for row in found
    ]
    return _timed(answers, model.predict_proba, asked)


def tfidf_number(train: Sequence[Mapping[str, Any]], questions: Sequence[Question]) -> list[Answer]:
    """The same word counts with ridge regression, for a task whose answer is a number."""
    try:
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
    except ImportError:
        raise missing_part("scikit-learn", "train", "The baseline tfidf") from None
    model = make_pipeline(_word_counts(), Ridge(alpha=1.0))
    _fit(model, train, [number_in(record["messages"][-1]["content"]) for record in train])
    asked = [asked_text(question.prompt or ()) for question in questions]
    answers = [Answer(plain_number(float(value))) for value in model.predict(asked)]
    return _timed(answers, model.predict, asked)


def _timed(answers: list[Answer], ask: Callable[[list[str]], Any], asked: Sequence[str]) -> list[Answer]:
    """With the seconds that each of the first takes alone."""
    seconds = []
    for text in asked[:TIMED]:
        start_s = time.perf_counter()
        ask([text])
        seconds.append(time.perf_counter() - start_s)
    return [replace(one, seconds=s) for one, s in zip(answers, seconds, strict=False)] + answers[
        len(seconds) :
    ]


def _word_counts() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")  # noqa: S106 - a pattern


def _fit(model: Any, train: Sequence[Mapping[str, Any]], truth: Sequence[Any]) -> None:
    try:
        model.fit([asked_text(record["messages"][:-1]) for record in train], truth)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        raise DataError(
            "no training row holds a single word, so the baseline tfidf cannot be fitted.",
            remedy="Leave tfidf out of evaluate.against.",
        ) from None


def three_examples(train: Sequence[Mapping[str, Any]], seed: int) -> list[Message]:
    """Three training examples as turns, without their system messages; the same for every question.

    Chosen by a hash of (seed, id), so row order does not matter: first examples whose labels differ, then any.
    Only rows that are no longer than the median are candidates, which keeps the prompt short. Fewer rows give fewer.
    """
    chats = [record for record in train if record["messages"]]
    if not chats:
        return []
    median = statistics.median(len(asked_text(record["messages"])) for record in chats)
    short = [record for record in chats if len(asked_text(record["messages"])) <= median]
    short.sort(key=lambda record: hashlib.blake2b(f"{seed}:{record['id']}".encode(), digest_size=16).digest())
    chosen: list[Mapping[str, Any]] = []
    seen = set()
    for record in short:
        if record["label"] not in seen:
            chosen.append(record)
            seen.add(record["label"])
    taken = {record["id"] for record in chosen[:SHOTS]}
    chosen = (
        chosen[:SHOTS]
        + [record for record in short if record["id"] not in taken][: max(0, SHOTS - len(chosen))]
    )
    return [message for record in chosen for message in record["messages"] if message["role"] != "system"]
