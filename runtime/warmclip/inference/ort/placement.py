"""Where a graph's nodes went."""

from dataclasses import dataclass
from typing import Any

from warmclip.inference.providers import Provider


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How much of a graph its provider took."""

    partitions: int  # pieces that the provider took
    cpu_nodes: int  # nodes that it left to the CPU


def read_placement(session: Any, provider: Provider) -> Placement | None:
    """Where the nodes of onnxruntime's session went; None where it cannot be read."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None  # before onnxruntime 1.24
    pieces = session.get_provider_graph_assignment_info()
    wanted = provider.execution_provider
    return Placement(
        partitions=sum(piece.ep_name == wanted for piece in pieces),
        cpu_nodes=sum(len(piece.get_nodes()) for piece in pieces if piece.ep_name != wanted),
    )
