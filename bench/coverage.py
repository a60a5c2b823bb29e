"""Whether the promise of p-values holds on good test parts: the share of them that a p-value rejects, and in a lot.

    python bench/coverage.py --data DIR --name NAME BUNDLE… [--write]

All test parts are inspected by each bundle. At most a share `a` of good parts should have p <= a. All test parts
together, good and defective, are then judged as one lot: of those rejected, at most the wanted share should be good,
on average over lots.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from common import cores, write_result
from flawmap.bundle import load_bundle
from flawmap.data.layouts import read_layout
from flawmap.deploy.inspector import Inspector
from flawmap.measure.conformal import false_discoveries

LEVELS = (0.01, 0.02, 0.05, 0.1)
RATES = (0.05, 0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--name", required=True, help="what the data set is called in the results")
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--write", action="store_true", help="write bench/results/coverage-NAME.json")
    chosen = parser.parse_args()
    samples = [sample for sample in read_layout(chosen.data).test if sample.defective is not None]
    defective = np.array([bool(sample.defective) for sample in samples])
    found = []
    for path in chosen.bundles:
        bundle = load_bundle(path)
        inspector = Inspector(bundle, "cpu", cores())
        p_values = np.array([inspector.inspect(sample.image).p_value for sample in samples], np.float64)
        good = p_values[~defective]
        levels = {}
        for level in LEVELS:
            count = int((good <= level).sum())
            interval = binomtest(count, len(good)).proportion_ci(method="exact")
            levels[f"{level:g}"] = {"share": count / len(good), "low": interval.low, "high": interval.high}
        lots = {}
        for rate in RATES:
            rejected = np.array(false_discoveries(p_values.tolist(), rate))
            lots[f"{rate:g}"] = {
                "rejected": int(rejected.sum()),
                "good": int((rejected & ~defective).sum()),
                "escape": float((~rejected & defective).sum() / defective.sum()),
            }
        row = {"seed": bundle.recipe.run.seed, "told_by": len(inspector.good_scores), "levels": levels, "lots": lots}
        found.append(row)
        shares = "  ".join(f"p <= {level}: {each['share']:.1%}" for level, each in levels.items())
        judged = "  ".join(
            f"at {rate}: {each['rejected']} rejected, {each['good']} of them good" for rate, each in lots.items()
        )
        print(f"{path.name}: {len(good)} good, told by {row['told_by']}: {shares}; as a lot {judged}", flush=True)
    if chosen.write:
        values = {"name": chosen.name, "bundles": found}
        print(f"wrote {write_result(f'coverage-{chosen.name}', 'coverage', values)}")


if __name__ == "__main__":
    main()
