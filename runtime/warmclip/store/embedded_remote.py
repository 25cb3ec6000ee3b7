"""An embedded store that another process has open: that one is asked to carry out each verb."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmclip.errors import StoreError, StoreHeld, StoreUnreachable
from warmclip.fsutil import private_folder
from warmclip.inference.arrays import Vector
from warmclip.process_table import is_running
from warmclip.progress import Progress
from warmclip.store.embedded_lock import read_owner
from warmclip.store.embedded_questions import (
    PROTOCOL,
    answer,
    from_record,
    from_vector,
    to_error,
    to_record,
)
from warmclip.store.embedded_wire import (
    MOST_ANSWER_BYTES,
    MOST_QUESTION_BYTES,
    address_of,
    receive_message,
    send_message,
    to_message,
)
from warmclip.store.engine import Record
from warmclip.store.filters import Condition
from warmclip.store.protocol import Optimized, Salvage

if TYPE_CHECKING:
    from warmclip.store.embedded import EmbeddedEngine

_AGAIN_S = 0.05  # until an owner that is not there is asked again


class RemoteEngine:
    """The ``Engine`` of an embedded store that another process owns, and is asked to use.

    It may be used from several threads.
    """

    def __init__(self, folder: Path, *, take_over: bool, patience_s: float) -> None:
        """Ask nobody yet.

        Args:
            folder: of the store.
            take_over: open it in this process when there is no owner; else the next one is
                waited for.
            patience_s: how long an answer is waited for.

        Raises:
            SettingsError: somebody else can write where the owner listens.
        """
        self._folder = folder
        self._address = address_of(folder)
        private_folder(self._address.parent, private=True)
        self._take_over = take_over
        self._patience_s = patience_s
        self._own: EmbeddedEngine | None = None
        self._taking = threading.Lock()

    @property
    def when_missing(self) -> str:
        """See ``Engine``."""
        return ""

    def list_collections(self) -> list[str]:
        """See ``Engine``."""
        return list(self._ask("list_collections"))

    def read_aliases(self) -> dict[str, str]:
        """See ``Engine``."""
        return dict(self._ask("read_aliases"))

    def count(self, collection: str, only: Condition | None = None) -> int:
        """See ``Engine``."""
        return int(self._ask("count", collection=collection, only=only))

    def retrieve(
        self, collection: str, ids: Sequence[str], *, with_vectors: bool = False
    ) -> list[Record]:
        """See ``Engine``."""
        found = self._ask(
            "retrieve", collection=collection, ids=list(ids), with_vectors=with_vectors
        )
        return [to_record(it) for it in found]

    def scroll(
        self, collection: str, only: Condition | None = None, *, with_vectors: bool = False
    ) -> Iterator[Record]:
        """See ``Engine``."""
        following: int | str | None = None
        while True:
            page = self._ask(
                "read_page",
                collection=collection,
                only=only,
                offset=following,
                with_vectors=with_vectors,
            )
            yield from map(to_record, page["records"])
            following = page["following"]
            if following is None:
                return

    def query(
        self, collection: str, vector: Vector, limit: int, only: Condition | None = None
    ) -> list[Record]:
        """See ``Engine``."""
        found = self._ask(
            "query", collection=collection, vector=from_vector(vector), limit=limit, only=only
        )
        return [to_record(it) for it in found]

    def describe(self, collection: str) -> dict[str, Any]:
        """See ``Engine``."""
        return dict(self._ask("describe", collection=collection))

    def set_alias(self, name: str, collection: str, *, former: str | None) -> None:
        """See ``Engine``."""
        self._ask("set_alias", name=name, collection=collection, former=former)

    def delete_alias(self, name: str) -> None:
        """See ``Engine``."""
        self._ask("delete_alias", name=name)

    def create_collection(self, collection: str, dim: int) -> None:
        """See ``Engine``."""
        self._ask("create_collection", collection=collection, dim=dim)

    def prepare_collection(self, collection: str, dim: int) -> None:
        """See ``Engine``."""
        self._ask("prepare_collection", collection=collection, dim=dim)

    def rebuild_collection(self, collection: str, dim: int) -> Salvage:  # noqa: ARG002 - the protocol's
        """Refused: it would stop the owner for long."""
        raise self._refusal()

    def optimize(
        self, collection: str, *, with_graph: bool, progress: Progress | None = None
    ) -> Optimized:
        """Refused where there is an owner: a worker has other things to do."""
        if self._own is None:
            raise self._refusal()
        return self._own.optimize(collection, with_graph=with_graph, progress=progress)

    def count_uncompacted(self, collection: str) -> int:
        """See ``Engine``."""
        return 0 if self._own is None else self._own.count_uncompacted(collection)

    def delete_collection(self, collection: str) -> None:
        """See ``Engine``."""
        self._ask("delete_collection", collection=collection)

    def upsert(self, collection: str, records: Sequence[Record]) -> None:
        """See ``Engine``."""
        self._ask("upsert", collection=collection, records=[from_record(it) for it in records])

    def set_payload(self, collection: str, fields: Mapping[str, Any], ids: Sequence[str]) -> None:
        """See ``Engine``."""
        self._ask("set_payload", collection=collection, fields=dict(fields), ids=list(ids))

    def delete(self, collection: str, only: Condition) -> None:
        """See ``Engine``."""
        self._ask("delete", collection=collection, only=only)

    def delete_payload(self, collection: str, field: str, only: Condition) -> None:
        """See ``Engine``."""
        self._ask("delete_payload", collection=collection, field=field, only=only)

    def close(self, *, at_exit: bool = False) -> None:
        """See ``Engine``."""
        if self._own is not None:
            self._own.close(at_exit=at_exit)

    def _ask(self, verb: str, **arguments: Any) -> Any:
        """The result of a question.

        Raises:
            StoreUnreachable: nobody answered in time.
            StoreError: as the verb raises it, or the answer is none.
        """
        question = {"protocol": PROTOCOL, "verb": verb, **arguments}
        message = to_message(question, most=MOST_QUESTION_BYTES)
        ends_at = time.monotonic() + self._patience_s
        while self._own is None:
            try:
                reply = self._exchange(message, ends_at)
                if "error" in reply:
                    raise to_error(reply["error"])
                return reply["result"]
            except TimeoutError as exc:
                raise self._unanswered() from exc
            except (ConnectionError, FileNotFoundError, BlockingIOError) as exc:
                # It has ended, or is about to begin, or has very many to answer.
                if not self._try_to_take_over():
                    if time.monotonic() + _AGAIN_S >= ends_at:
                        raise self._unanswered() from exc
                    time.sleep(_AGAIN_S)
            except OSError as exc:
                raise StoreError(f"cannot ask the owner of {self._folder}: {exc}") from exc
            except (ValueError, KeyError, TypeError) as exc:
                raise StoreError(
                    f"what listens at {self._address} gave an answer that is none of warmclip's: "
                    f"{exc}. Stop it, then run the same command again"
                ) from exc
        return answer(self._own, question)

    def _exchange(self, message: bytes, ends_at: float) -> Any:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as owner:
            owner.settimeout(self._patience_s)
            owner.connect(os.fspath(self._address))
            send_message(owner, message, ends_at=ends_at)
            return receive_message(owner, most=MOST_ANSWER_BYTES, ends_at=ends_at)

    def _try_to_take_over(self) -> bool:
        from warmclip.store.embedded import EmbeddedEngine

        with self._taking:
            if self._take_over and self._own is None:
                with contextlib.suppress(StoreHeld):
                    self._own = EmbeddedEngine(self._folder)
        return self._own is not None

    def _unanswered(self) -> StoreUnreachable:
        owner = read_owner(self._folder)
        if owner is None or not is_running(owner):
            return StoreUnreachable(
                f"no process that owns the embedded store {self._folder} answers; start "
                "`warmclip worker`, or ask again when what is starting has started"
            )
        return StoreUnreachable(
            f"process {owner} owns the embedded store {self._folder}, and has not answered for "
            f"{self._patience_s:g} s: it was stopped, is converting a store of the former "
            "format, or copies a large collection. Ask again when it goes on or has ended"
        )

    def _refusal(self) -> StoreHeld:
        owner = read_owner(self._folder)
        return StoreHeld(
            f"process {owner or '?'} owns the embedded store {self._folder}, and has other work to "
            "do: stop it, then run the same command again"
        )
