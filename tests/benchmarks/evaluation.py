"""CPU-seconds of an evaluation: this tree against another one, in turn, with the values of both.

    git worktree add --detach ../first d7bc241
    python tests/benchmarks/evaluation.py --against ../first [--space search_spaces/gcd_smollm2.yaml --model DIR]

Evaluates the model of the space's first trial, with an adapter that is not zero, on all evaluation sets. Prints the
seconds of each round, their ratio, and the largest difference of a value. A round's first evaluation is left out: later
ones find the rows' tokens made.

Measured on a 2-core x86 CPU machine, one thread, against the first release: toy world 0.9 to 1.2
against 2.3 to 3.4 CPU-seconds, 2.7 times fewer, values equal to 7e-7; SmolLM2-135M in float32 with `--rows 6` 27.7
against 35.2, 1.3 times fewer, values equal to 1e-6: with so few rows, generation reads all weights for each token.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from two_trees import ROOT, require_package, run

EVALUATE = """
import json, sys, time
import torch
from selgen_ray.space import load_space
from selgen_ray.trainers import get_trainer
torch.set_num_threads(1)
space, changes, number = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
config = load_space(space).trials[0].config.model_dump()
config["finetune_config"] |= changes
trainer = get_trainer(config["proxy_strategy"])(config)
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, parameter in trainer.parameters.items():
        if "lora_B" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
seconds = []
for _ in range(number + 1):
    start = time.process_time()
    values = trainer.evaluate()
    seconds.append(time.process_time() - start)
trainer.close()
print(json.dumps({"seconds": seconds[1:], "values": values}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--against", required=True, type=require_package, help="a checkout, or a folder of packages")
    parser.add_argument("--space", default=str(ROOT / "search_spaces" / "quickstart.yaml"))
    parser.add_argument("--model", help="in place of the space's model")
    parser.add_argument("--dtype", help="in place of the space's dtype")
    parser.add_argument("--rows", type=int, help="rows of an evaluation set, the first ones")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=2, help="in a round")
    args = parser.parse_args()
    named = {"model": args.model, "dtype": args.dtype, "max_to_eval": args.rows}
    changes = str({key: value for key, value in named.items() if value is not None}).replace("'", '"')
    rounds = [
        [run(tree, EVALUATE, args.space, changes, str(args.evaluations)) for tree in (ROOT, args.against)]
        for _ in range(args.rounds)
    ]
    ours, theirs = ([second for pair in rounds for second in pair[i]["seconds"]] for i in range(2))
    for name, seconds in (("this tree", ours), (args.against, theirs)):
        print(f"{name}: {', '.join(f'{second:.2f}' for second in seconds)} CPU-seconds")
    print(f"ratio of the medians: {statistics.median(theirs) / statistics.median(ours):.2f} times fewer")
    print(difference(rounds[0][0]["values"], rounds[0][1]["values"]))


def difference(ours: dict[str, dict[str, Any]], theirs: dict[str, dict[str, Any]]) -> str:
    """Say how far the values of two evaluations are apart; a share that differs has another answer to some row."""
    names = [(s, m) for s in theirs for m in theirs[s] if m in ours.get(s, {})]
    missing = sum(map(len, theirs.values())) - len(names)
    far, (name, metric) = max((abs(ours[s][m] - theirs[s][m]) / max(1, abs(theirs[s][m])), (s, m)) for s, m in names)
    return f"{len(names)} values, {missing} missing; largest difference {far:.1e}, of {name}/{metric}"


if __name__ == "__main__":
    main()
