"""The trials of the providers, in a child: ``python -m warmclip.doctor.provider_trials``.

Even listing onnxruntime's providers loads it, which the doctor itself never does.
"""

import argparse
import sys
from pathlib import Path

from warmclip.doctor import processes
from warmclip.doctor.processes import Subject, announce
from warmclip.inference.bundle import ModelBundle
from warmclip.inference.selection.provider_selection import read_selection, select_providers

_TO_END_A_TRIAL_S = 30.0  # beyond its own deadline


def main() -> None:
    """Try every provider that may be chosen, or only read what earlier trials found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--choice", required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--deadline", type=float, required=True)
    parser.add_argument("--only-look", action="store_true")
    options = parser.parse_args()

    stages = [""]

    def report_stage(_done: int, _total: int, stage: str) -> None:
        if stage != stages[-1]:  # each has a deadline of its own
            stages.append(stage)
            announce(stage, options.deadline + _TO_END_A_TRIAL_S)

    def select_for(bundle: ModelBundle) -> dict[str, object]:
        if options.only_look:
            found = read_selection(
                bundle, options.choice, home=options.home, threads=options.threads
            )
        else:
            found = select_providers(
                bundle,
                options.choice,
                home=options.home,
                threads=options.threads,
                deadline_s=options.deadline,
                try_all=True,
                progress=report_stage,
            )
        return {"verdict": found.to_dict() if found is not None else None}

    subject = Subject(make=lambda: ModelBundle.open(options.bundle), use=select_for, command=())
    sys.exit(processes.run(subject, "main"))


if __name__ == "__main__":
    main()
