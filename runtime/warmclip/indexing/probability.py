"""What a model that was trained with a sigmoid says of its hits: the probability of a match."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from warmclip.indexing.query import Query

if TYPE_CHECKING:  # neither is needed by who has hits already
    from warmclip.inference.bundle import Logits
    from warmclip.store.protocol import Hit


def with_probability(hits: "Iterable[Hit]", query: Query, logits: "Logits | None") -> "list[Hit]":
    """Hits with the probability that the query's text belongs to them.

    They stay as they are where the model has no sigmoid (SigLIP's kind has one), and where the
    query is not one text: the model learned nothing of two pictures, or of sums of vectors.

    Args:
        hits: that were found.
        query: what was looked for.
        logits: of the model's manifest.
    """
    term = query.only_term
    if logits is None or logits.bias is None or term is None or term.text is None:
        return list(hits)
    return [replace(hit, probability=logits.probability(hit.score)) for hit in hits]
