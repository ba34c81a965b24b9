"""Runs a config over a grid of settings, each cross-validated, and says which settings matter.

    python launch/ablate.py --config=configs/resnet34_cpu.py --sweep train.epochs=20 \\
        --sweep augment.mixup_alpha=0,0.3 --sweep augment.time_mask=0,20 --folds=1,2 --seeds=0,1 --runs=runs/mixup
    python launch/ablate.py … --at_once=4 --gpus=1     four at a time on this machine, each on a GPU (else: some cores)
    python launch/ablate.py … --slurm --partition=gpu --gpus=1 --hours=4 --at_once=16

Every combination is a run of its own below RUNS, named by what differs. Those that are done are skipped, one that
crashes is tried once more and then left out, and the same command goes on where it was interrupted. RUNS/ablation.md
compares the values of each setting clip by clip, with all other settings, folds and seeds equal.
"""

import argparse
from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


class AblationError(ValueError):
    """A sweep that cannot run. The message is one sentence."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One combination.

    Attributes:
        settings: key → value, as text, of what is swept.
        workdir: of its cross-validation.
        command: that does it.
    """

    settings: dict[str, str]
    workdir: pathlib.Path
    command: list[str]

    @property
    def done(self) -> bool:
        """Whether its results are there, and no fold of it failed."""
        try:
            return not json.loads((self.workdir / "results.json").read_text()).get("failed")
        except (OSError, ValueError):  # none, or cut short
            return False


def parse_sweeps(sweeps: Sequence[str], config) -> dict[str, list[str]]:
    """Key → values of arguments "key=a,b". Raises AblationError for a key that the config does not have."""
    from esc_jax import config as configs

    known, grid = configs.flatten(config), {}
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        key = key.removeprefix("config.")
        if not equals or not values:
            raise AblationError(f"--sweep {sweep}: give a key and its values, as optim.lr=1e-3,3e-4")
        if key not in known:
            raise AblationError(f"--sweep {sweep}: {configs.nearest(key, config)}")
        if key in grid:
            raise AblationError(f"--sweep {sweep}: {key} is swept twice")
        grid[key] = re.split(r",(?![^(\[]*[)\]])", values)  # at commas outside of brackets
    return grid


def plan(options: argparse.Namespace, grid: dict[str, list[str]]) -> list[Run]:
    """Every combination of the grid."""
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        raise AblationError(f"--seeds={options.seeds}: give consecutive seeds, as 0,1,2")
    fixed = [f"--config={pathlib.Path(options.config).resolve()}", "--mode=crossval", f"--config.seed={seeds[0]}"]
    fixed.append(f"--config.crossval.seeds={len(seeds)}")
    if options.folds:
        folds = [int(fold) for fold in options.folds.split(",")]
        fixed.append(f"--config.crossval.folds={tuple(folds)}")
    runs = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        varied = [f"{key.rsplit('.', 1)[-1]}={settings[key]}" for key in grid if len(grid[key]) > 1]
        workdir = pathlib.Path(options.runs).resolve() / (",".join(varied).replace("/", "_") or "run")
        overrides = [f"--config.{key}={value}" for key, value in settings.items()]
        command = [sys.executable, "-m", "esc_jax.main", *fixed, *overrides, *options.rest, f"--workdir={workdir}"]
        if any(workdir == run.workdir for run in runs):
            raise AblationError(f"two runs would be called {workdir.name}: give each value once")
        runs.append(Run(settings, workdir, command))
    return runs


def execute(command: list[str], cores: Sequence[int], environment: dict[str, str], log: str) -> None:
    """Runs a command on some cores, its words to `log`; raises RuntimeError if it fails."""
    if cores:
        os.sched_setaffinity(0, cores)
    pathlib.Path(log).parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | environment | {"PYTHONPATH": path}  # from whatever folder it was started in
    with open(log, "a") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=file).returncode
    if status:
        raise RuntimeError(f"exit status {status}: see {log}")


def slots(options: argparse.Namespace) -> list[tuple[list[int], dict[str, str]]]:
    """What each of the runs at a time has for itself on this machine: cores, and a GPU where --gpus gives one."""
    if options.slurm:
        return [([], {})] * options.at_once
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // options.at_once)
    found = []
    for slot in range(options.at_once):
        own = cores[slot * share : (slot + 1) * share] or cores
        devices = [str(slot * options.gpus + gpu) for gpu in range(options.gpus)]
        found.append((own, {"CUDA_VISIBLE_DEVICES": ",".join(devices)} if devices else {}))
    return found


def launch(runs: Iterable[Run], options: argparse.Namespace) -> dict[str, str]:
    """Runs what is not done, a few at a time; name → reason of those that failed twice or were interrupted."""
    import submitit

    executor = submitit.AutoExecutor(
        folder=pathlib.Path(options.runs) / "submitit", cluster="slurm" if options.slurm else "local"
    )
    executor.update_parameters(timeout_min=round(60 * options.hours), name="ablate")
    if options.slurm:
        executor.update_parameters(slurm_partition=options.partition, gpus_per_node=options.gpus, nodes=1)
    free, waiting, running, failed = slots(options), [(run, 1) for run in runs], [], {}
    while waiting or running:
        while waiting and free:
            (run, attempt), (cores, environment) = waiting.pop(0), free.pop()
            job = executor.submit(execute, run.command, cores, environment, str(run.workdir) + ".log")
            sys.stderr.write(f"{run.workdir.name}: started{' again' if attempt > 1 else ''}, job {job.job_id}\n")
            running.append((job, run, attempt, (cores, environment)))
        time.sleep(0.5)
        for entry in [entry for entry in running if entry[0].done()]:
            running.remove(entry)
            job, run, attempt, slot = entry
            free.append(slot)
            error = job.exception()
            if error is None:
                if not run.done:  # a run that is told to end saves its state, and its exit status is 0
                    failed[run.workdir.name] = "not finished: it was interrupted, and the same command goes on"
                sys.stderr.write(f"{run.workdir.name}: {failed.get(run.workdir.name, 'done')}\n")
                continue
            # submitit wraps what the job raised in a page of its own; a job that never began has no log.
            log = pathlib.Path(f"{run.workdir}.log")
            words = (log.read_text(errors="replace") if log.exists() else str(error)).strip().splitlines()
            reason = words[-1] if words else type(error).__name__
            if attempt == 1:
                waiting.append((run, 2))
            else:
                failed[run.workdir.name] = reason
            sys.stderr.write(f"{run.workdir.name}: failed ({reason})\n")
    return failed


def _hits(run: Run) -> dict[tuple[str, str], tuple[bool, str]]:
    """(clip, seed) → (whether it is right, its source recording), of a run's predictions.csv."""
    import csv

    with open(run.workdir / "predictions.csv", newline="") as file:
        return {(r["clip"], r["seed"]): (r["true"] == r["predicted"], r["source"]) for r in csv.DictReader(file)}


def effects(runs: Sequence[Run], grid: dict[str, list[str]]) -> list[tuple[str, str, str, object]]:
    """(key, first value, other value, difference) for every setting: an `Interval` of other minus first.

    The difference is that of accuracies on the same clips, over all pairs of runs that differ in this setting alone;
    recordings are drawn again (`esc_jax.statistics.difference_interval`).
    """
    from esc_jax.evaluation import confidence

    found = []
    by_settings = {tuple(run.settings.values()): run for run in runs}
    for place, (key, values) in enumerate(grid.items()):
        for value in values[1:]:
            first, second, recordings = [], [], []
            for settings, run in by_settings.items():
                other = by_settings.get((*settings[:place], value, *settings[place + 1 :]))
                if settings[place] != values[0] or other is None:
                    continue
                one, two = _hits(run), _hits(other)
                for clip in one.keys() & two.keys():
                    first.append(one[clip][0])
                    second.append(two[clip][0])
                    recordings.append(one[clip][1])
            if first:
                found.append((key, values[0], value, confidence.difference_interval(second, first, recordings)))
    return found


def summary(runs: Sequence[Run], grid: dict[str, list[str]], failed: dict[str, str]) -> str:
    """What came out, as Markdown."""
    swept = [key for key in grid if len(grid[key]) > 1]
    columns = [*swept, "accuracy", "95 % interval", "TTA"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    scored = [(json.loads((run.workdir / "results.json").read_text()), run) for run in runs]
    for found, run in sorted(scored, key=lambda pair: -pair[0]["accuracy"]["mean"]):
        low, high = (100 * bound for bound in found["accuracy"]["ci95"])
        tta = found["accuracy_tta"]
        cells = [run.settings[key] for key in swept]
        cells += [f"{100 * found['accuracy']['mean']:.2f}", f"{low:.1f} to {high:.1f}"]
        cells.append(f"{100 * tta['mean']:.2f}" if tta else "–")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Difference of accuracies on the same clips, everything else equal; * where the interval leaves out 0.",
        "",
    ]
    lines += ["| setting | from | to | points | 95 % interval | |", "|---|---|---|---|---|---|"]
    for key, first, value, gain in effects(runs, grid):
        mark = "*" if gain.low > 0 or gain.high < 0 else ""
        interval = f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}"
        lines.append(f"| {key} | {first} | {value} | {100 * gain.value:+.2f} | {interval} | {mark} |")
    if failed:
        lines += [
            "",
            "Failed twice or interrupted, and left out:",
            *(f"- {name}: {reason}" for name, reason in failed.items()),
        ]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="the experiment: a file in configs/")
    values = "a setting and its values, tuples in brackets"
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=A,B", help=values)
    parser.add_argument("--folds", default="", help="those to test on (default: all)")
    parser.add_argument("--seeds", default="0", help="consecutive seeds (default: %(default)s)")
    parser.add_argument("--runs", required=True, help="folder of the runs")
    parser.add_argument("--at_once", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="per run (default: %(default)s)")
    parser.add_argument("--slurm", action="store_true", help="submit to Slurm, not to this machine")
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument("--hours", type=float, default=24.0, help="limit of a run (default: %(default)s)")
    options, options.rest = parser.parse_known_args(argv)
    try:
        if unknown := [word for word in options.rest if not word.startswith("--config.")]:
            raise AblationError(f"there is no {unknown[0]}; other settings are given as --config.KEY=VALUE")
        if options.at_once < 1:
            raise AblationError("--at_once must be 1 or more")
        from esc_jax import config as configs

        grid = parse_sweeps(options.sweep, configs.load(options.config))
        runs = plan(options, grid)
    except (AblationError, ValueError) as error:
        sys.stderr.write(f"esc_jax: {error}\n")
        sys.exit(2)
    todo = [run for run in runs if not run.done]
    sys.stderr.write(f"{len(runs)} runs, {len(runs) - len(todo)} of them done\n")
    failed = launch(todo, options) if todo else {}
    finished = [run for run in runs if run.done]
    if finished:
        text = summary(finished, grid, failed)
        (pathlib.Path(options.runs) / "ablation.md").write_text(text)
        sys.stdout.write(text)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
