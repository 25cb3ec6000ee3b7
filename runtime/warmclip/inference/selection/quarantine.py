"""Providers that are not to be used for a while, and why: one small file that outlives processes.

This module is light: the parent of a worker, which must never load a model's libraries, writes
here as well.
"""

import json
import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from warmclip.fsutil import file_lock, private_folder, replace_file
from warmclip.inference.providers import PROVIDERS

log = logging.getLogger(__name__)

FILE = "quarantine.json"

HOURS = 24
"""How long a provider is passed over, unless told otherwise."""

_LONGEST_REASON = 500  # characters: a reason may quote what a dying process printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Why a provider is passed over, and until when; both times are ISO 8601, UTC."""

    reason: str
    since: str
    until: str

    @classmethod
    def from_dict(cls, raw: Any) -> Self:
        """Read one record.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        record = cls(**{name: str(raw[name]) for name in ("reason", "since", "until")})
        if datetime.fromisoformat(record.until).tzinfo is None:
            raise ValueError(f"{record.until!r} has no time zone")
        return record

    @property
    def is_over(self) -> bool:
        """Whether its time has run out."""
        return datetime.fromisoformat(self.until) <= datetime.now(UTC)


class Quarantine:
    """The quarantine of one WARMCLIP_HOME, which its processes share."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._file = home / FILE

    def add(self, provider: str, reason: str, *, hours: float = HOURS) -> bool:
        """Let a provider, or every provider of a family, be passed over for a while.

        Returns False, and does nothing, for the reference: without it there is nothing to fall
        back to.

        Raises:
            SettingsError: the home cannot be made, or is not ours alone.
        """
        known = PROVIDERS.get(provider)
        if known is not None and known.is_reference:
            return False
        now = datetime.now(UTC)
        private_folder(self._home, private=False)
        with file_lock(self._lock):
            records = self.active()
            records[provider] = Quarantined(
                reason=" ".join(reason.split())[:_LONGEST_REASON],
                since=now.isoformat(timespec="seconds"),
                until=(now + timedelta(hours=hours)).isoformat(timespec="seconds"),
            )
            self._write(records)
        return True

    def active(self) -> dict[str, Quarantined]:
        """Name -> record of each provider in quarantine. A damaged file counts as empty."""
        try:
            raw = json.loads(self._file.read_text(encoding="utf-8"))
            records = {str(name): Quarantined.from_dict(record) for name, record in raw.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
            log.warning("%s cannot be read and counts as empty: %r", self._file, exc)
            return {}
        return {name: record for name, record in records.items() if not record.is_over}

    def find(self, provider: str) -> Quarantined | None:
        """The record that holds for a provider: its own, or its family's."""
        records = self.active()
        return records.get(provider) or records.get(provider.partition("-")[0])

    def clear(self, name: str | None = None) -> list[str]:
        """Forget a provider's record, a family's with all its members', or every one.

        Returns the names that were in quarantine.
        """
        if not self._file.exists():
            return []
        with file_lock(self._lock):
            records = self.active()
            cleared = [
                provider
                for provider in records
                if name is None or name in (provider, provider.partition("-")[0])
            ]
            self._write({n: record for n, record in records.items() if n not in cleared})
        return cleared

    @property
    def _lock(self) -> Path:
        return self._home / f".{FILE}.lock"

    def _write(self, records: dict[str, Quarantined]) -> None:
        raw = {name: asdict(record) for name, record in records.items()}
        replace_file(self._file, json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
