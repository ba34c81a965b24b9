"""Cross-validates a config over a grid of settings and estimates the effect of each setting.

    python launch/ablate.py --config=configs/resnet34_cpu.py --sweep train.epochs=20 \\
        --sweep augment.mixup_alpha=0,0.3 --sweep augment.time_mask=0,20 --folds=1,2 --seeds=0,1 --runs=runs/mixup
    python launch/ablate.py @launch/ingredients.txt --config.data.dir=ESC-50-master --runs=runs/ingredients
    python launch/ablate.py … --at_once=4              four runs at a time, which share the cores and GPUs
    python launch/ablate.py … --at_once=4 --gpus=1     four runs at a time on this machine, one GPU each
    python launch/ablate.py … --slurm --partition=gpu --gpus=1 --hours=4 --at_once=16

Every combination is a run in a subfolder of RUNS, named after the settings that differ. Each --change is one more run,
with one or several settings changed; all changes are compared with the config itself. @FILE reads arguments from a
file, one a line; lines that begin with # are skipped. All settings are checked before the first run starts. Finished
runs are skipped. A run that fails is retried once and then excluded. To resume an interrupted sweep, run the same
command again. RUNS/ablation.md lists all runs and compares the values of each setting on the same clips, with all other
settings, folds and seeds equal.
"""

import argparse
from collections.abc import Iterable, Sequence
import copy
import dataclasses
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from esc_jax.errors import EX_TEMPFAIL, UserError  # noqa: E402

if TYPE_CHECKING:
    from esc_jax.evaluation.confidence import ConfidenceInterval
    from esc_jax.tasks.base import Task

MEMORY_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # of a GPU; each process reserves three quarters by default
Grid = dict[str, list[str]]  # setting → its values, as text
_CHANGE, _UNCHANGED = "change", "none"  # the setting of a grid whose values are names of changes
Slot = tuple[list[int], dict[str, str]]  # cores and environment of one of the runs at a time


class AblationError(ValueError):
    """A sweep that cannot run. The message is one sentence."""


class InterruptedRunError(RuntimeError):
    """A run that was stopped with its state saved."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One combination of settings.

    Attributes:
        settings: key → value, as text, of the swept settings.
        workdir: of its cross-validation.
        command: its command line.
    """

    settings: dict[str, str]
    workdir: pathlib.Path
    command: list[str]

    @property
    def done(self) -> bool:
        """Whether its results exist and no fold failed."""
        try:
            return not self.results().get("failed")
        except (OSError, ValueError):  # no file, or a truncated one
            return False

    def results(self) -> dict[str, Any]:
        """The object of its results.json."""
        return json.loads((self.workdir / "results.json").read_text())

    def task(self) -> "Task":
        """Its task."""
        from esc_jax.tasks import registry

        return registry.get(self.results()["task"])


def parse_sweeps(sweeps: Sequence[str], config: Any) -> Grid:
    """Setting → values of arguments "key=a,b".

    Raises:
        AblationError: the config does not have the key, or there are no values.
    """
    from esc_jax import config as configs

    known, grid = configs.flatten(config), {}
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        key = key.removeprefix("config.")
        if not equals or not values:
            raise AblationError(f"--sweep {sweep}: give a key and its values, for example optim.lr=1e-3,3e-4")
        if key not in known:
            raise AblationError(f"--sweep {sweep}: {configs.nearest(key, config)}")
        if key in grid:
            raise AblationError(f"--sweep {sweep}: {key} is swept twice")
        grid[key] = re.split(r",(?![^(\[]*[)\]])", values)  # at commas outside of brackets
    return grid


def parse_changes(changes: Sequence[str], config: Any, fixed: Iterable[str]) -> dict[str, dict[str, str]]:
    """Name → settings of arguments "name: key=value key=value", after the name "none" without settings.

    Args:
        changes: the arguments; without any, the result is empty.
        config: that is changed.
        fixed: keys that are swept or set for all runs.

    Raises:
        AblationError: an argument has another form, or the config does not have a key.
    """
    from esc_jax import config as configs

    known = configs.flatten(config)
    parsed: dict[str, dict[str, str]] = {_UNCHANGED: {}} if changes else {}
    for change in changes:
        name, colon, text = change.partition(":")
        settings = dict(part.removeprefix("config.").partition("=")[::2] for part in text.split())
        if not colon or not re.fullmatch(r"[\w-]+", name) or not settings or not all(settings.values()):
            raise AblationError(
                f"--change {change}: give a name and settings, for example loud: augment.gain_db=12 augment.noise=0.1"
            )
        if name in parsed:
            raise AblationError(f"--change {change}: the name {name} is used twice")
        for key in settings:
            if key not in known:
                raise AblationError(f"--change {change}: {configs.nearest(key, config)}")
            if key in fixed:
                raise AblationError(f"--change {change}: {key} is set for all runs, or swept")
        parsed[name] = settings
    return parsed


def plan(options: argparse.Namespace, grid: Grid) -> list[Run]:
    """The runs of all combinations of the grid.

    Raises:
        AblationError: folds or seeds are no numbers, the seeds are not consecutive, or two combinations are equal.
    """
    from esc_jax import config as configs

    seeds = _numbers("--seeds", options.seeds)
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        raise AblationError(f"--seeds={options.seeds}: give consecutive seeds, for example 0,1,2")
    path = configs.find(options.config).resolve()
    common = [f"--config={path}", "--mode=crossval", f"--config.seed={seeds[0]}"]
    common.append(f"--config.crossval.seeds={len(seeds)}")
    if options.folds:
        common.append(f"--config.crossval.folds={tuple(_numbers('--folds', options.folds))}")
    runs: list[Run] = []
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        varied = [f"{key.rsplit('.', 1)[-1]}={settings[key]}" for key in grid if len(grid[key]) > 1]
        workdir = pathlib.Path(options.runs).resolve() / (",".join(varied).replace("/", "_") or "run")
        changed = {key: value for key, value in settings.items() if key != _CHANGE}
        changed |= options.changes.get(settings.get(_CHANGE), {})
        overrides = [f"--config.{key}={value}" for key, value in changed.items()]
        command = [sys.executable, "-m", "esc_jax.main", *common, *overrides, *options.rest, f"--workdir={workdir}"]
        if any(workdir == run.workdir for run in runs):
            raise AblationError(f"two runs would have the name {workdir.name}: give each value once")
        runs.append(Run(settings, workdir, command))
    return runs


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise AblationError(f"{option}={text}: give whole numbers, for example 1,2") from None


def config_of(run: Run, base: Any) -> Any:
    """The config of a run, as its command parses it.

    Args:
        run: a planned run.
        base: the config without the settings of the run.

    Raises:
        AblationError: a value has another type.
    """
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    argv = ["main", *(word for word in run.command if word.startswith("--config."))]
    try:
        config_flags.DEFINE_config_dict("config", copy.deepcopy(base), flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise AblationError(f"{run.workdir.name}: {error}") from None
    return values.config


def check_configs(runs: Iterable[Run], base: Any) -> None:
    """Checks the configs of all runs before any run is started.

    Args:
        runs: the planned runs.
        base: as for `config_of`.

    Raises:
        AblationError: a run would refuse a value, or a finished run has another config.
    """
    from esc_jax import config as configs
    from esc_jax.experiments import workdir

    for run in runs:
        config = config_of(run, base)
        try:
            configs.check(config)
        except UserError as error:
            raise AblationError(f"{run.workdir.name}: {error}") from None
        if not run.done or not (run.workdir / "config.json").exists():
            continue
        if changed := workdir.differences(workdir.read_config(run.workdir), configs.flatten(config)):
            raise AblationError(
                f"{run.workdir} contains a run of another config: {'; '.join(changed[:3])}; choose another --runs"
            )


def execute(command: list[str], cores: Sequence[int], environment: dict[str, str], log: str) -> None:
    """Runs a command on some cores and appends its output to `log`.

    Raises:
        InterruptedRunError: the run was stopped with its state saved.
        RuntimeError: the run failed.
    """
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    pathlib.Path(log).parent.mkdir(parents=True, exist_ok=True)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | environment | {"PYTHONPATH": path}  # the package is found from any folder
    with open(log, "a") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=file).returncode
    if status == EX_TEMPFAIL:
        raise InterruptedRunError(f"exit status {status}: see {log}")
    if status:
        raise RuntimeError(f"exit status {status}: see {log}")


def slots(options: argparse.Namespace) -> list[Slot]:
    """Resources of each of the runs at a time on this machine: its cores, and its GPUs or its share of their memory."""
    if options.slurm:
        return [([], {})] * options.at_once
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    per_run = max(1, len(cores) // options.at_once)
    result: list[Slot] = []
    for slot in range(options.at_once):
        assigned = cores[slot * per_run : (slot + 1) * per_run] or cores
        environment: dict[str, str] = {}
        if options.gpus:
            devices = range(slot * options.gpus, (slot + 1) * options.gpus)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
        elif options.at_once > 1 and MEMORY_SHARE not in os.environ:
            environment[MEMORY_SHARE] = f"{0.9 / options.at_once:.3f}"
        result.append((assigned, environment))
    return result


def _last_line(log: pathlib.Path, error: BaseException) -> str:
    """Last line of a run's log. A job that never started has no log: its error then."""
    lines = (log.read_text(errors="replace") if log.exists() else str(error)).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _failure(run: Run, error: BaseException | None) -> tuple[str, bool]:
    """Why a job has no results, empty where it has them, and whether to try again."""
    if error is None and run.done:
        return "", False
    # submitit raises an error of its own whose text has the traceback of the job.
    if error is None or InterruptedRunError.__name__ in str(error) or isinstance(error, InterruptedRunError):
        return "interrupted; run the same command again to resume it", False
    return _last_line(pathlib.Path(f"{run.workdir}.log"), error), True


def _executor(options: argparse.Namespace) -> Any:
    """submitit's executor on this machine or on Slurm."""
    import submitit

    executor = submitit.AutoExecutor(
        folder=pathlib.Path(options.runs) / "submitit", cluster="slurm" if options.slurm else "local"
    )
    executor.update_parameters(timeout_min=round(60 * options.hours), name="ablate")
    if options.slurm:
        executor.update_parameters(slurm_partition=options.partition, gpus_per_node=options.gpus, nodes=1)
    return executor


def launch(runs: Iterable[Run], options: argparse.Namespace) -> dict[str, str]:
    """Executes runs, `options.at_once` at a time.

    Returns:
        Name → reason, of runs that failed twice or were interrupted.
    """
    executor = _executor(options)
    free, waiting = slots(options), [(run, 1) for run in runs]
    running: list[tuple[Any, Run, int, Slot]] = []
    failed: dict[str, str] = {}
    while waiting or running:
        while waiting and free:
            (run, attempt), (cores, environment) = waiting.pop(0), free.pop()
            job = executor.submit(execute, run.command, cores, environment, f"{run.workdir}.log")
            sys.stderr.write(f"{run.workdir.name}: started{' again' if attempt > 1 else ''}, job {job.job_id}\n")
            running.append((job, run, attempt, (cores, environment)))
        time.sleep(0.5)
        for entry in [entry for entry in running if entry[0].done()]:
            running.remove(entry)
            job, run, attempt, slot = entry
            free.append(slot)
            reason, retry = _failure(run, job.exception())
            if retry and attempt == 1:
                waiting.append((run, 2))
            elif reason:
                failed[run.workdir.name] = reason
            sys.stderr.write(f"{run.workdir.name}: {f'failed ({reason})' if retry else reason or 'done'}\n")
    return failed


def _clip_scores(run: Run) -> dict[tuple[str, int], tuple[float, str]] | None:
    """(clip, seed) → (contribution to the primary metric, source recording).

    None for a task whose metric is not a mean over clips.
    """
    from esc_jax.report.predictions import read_predictions

    task = run.task()
    predictions = read_predictions(run.workdir / "predictions.csv", task, run.results()["data"]["classes"])
    scores = task.clip_scores(predictions.labels, predictions.scores)
    if scores is None:
        return None
    keys = zip(predictions.clips, predictions.seeds.tolist(), strict=True)
    return dict(zip(keys, zip(scores.tolist(), predictions.recordings, strict=True), strict=True))


def effects(runs: Sequence[Run], grid: Grid) -> list[tuple[str, str, str, "ConfidenceInterval"]]:
    """Effect of every setting: (key, first value, other value, interval of the difference, other − first).

    The difference is paired by clip over all pairs of runs that differ in this setting only. Its interval is that of
    `esc_jax.evaluation.confidence.difference_interval`, which resamples source recordings. The list is empty for a task
    whose metric is not a mean over clips.
    """
    from esc_jax.evaluation import confidence

    by_settings = {}
    for run in runs:
        scores = _clip_scores(run)
        if scores is None:
            return []
        by_settings[tuple(run.settings.values())] = scores
    result = []
    for position, (key, values) in enumerate(grid.items()):
        for value in values[1:]:
            first, second, recordings = [], [], []
            for settings, scores in by_settings.items():
                other_scores = by_settings.get((*settings[:position], value, *settings[position + 1 :]))
                if settings[position] != values[0] or other_scores is None:
                    continue
                for clip in scores.keys() & other_scores.keys():
                    first.append(scores[clip][0])
                    second.append(other_scores[clip][0])
                    recordings.append(scores[clip][1])
            if first:
                result.append((key, values[0], value, confidence.difference_interval(second, first, recordings)))
    return result


def _runs_table(runs: Sequence[Run], grid: Grid, task: "Task") -> list[str]:
    """The primary metric of every run, the best run first, as lines of Markdown."""
    swept = [key for key in grid if len(grid[key]) > 1]
    columns = [*swept, task.metric_label, "95 % interval", "TTA"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    scored = [(run.results(), run) for run in runs]
    for results, run in sorted(scored, key=lambda pair: -pair[0][task.metric]["mean"]):
        metric, tta = results[task.metric], results.get(f"{task.metric}_tta")
        low, high = (100 * bound for bound in metric["ci95"])
        cells = [run.settings[key] for key in swept]
        cells += [f"{100 * metric['mean']:.2f}", f"{low:.1f} to {high:.1f}", f"{100 * tta['mean']:.2f}" if tta else "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def summary(runs: Sequence[Run], grid: Grid, failed: dict[str, str]) -> str:
    """The results of a sweep as Markdown: runs, effects of the settings, failures."""
    task = runs[0].task()
    lines = _runs_table(runs, grid, task)
    rows = []
    for key, first, value, gain in effects(runs, grid):
        mark = "*" if gain.low > 0 or gain.high < 0 else ""
        interval = f"{100 * gain.low:+.2f} to {100 * gain.high:+.2f}"
        rows.append(f"| {key} | {first} | {value} | {100 * gain.value:+.2f} | {interval} | {mark} |")
    if rows:
        lines += [
            "",
            f"Difference in {task.metric_label} on the same clips, all other settings equal. * marks intervals that"
            " exclude 0.",
            "",
            "| setting | from | to | points | 95 % interval | |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    if failed:
        lines += ["", "Excluded runs, which failed twice or were interrupted:"]
        lines += [f"- {name}: {reason}" for name, reason in failed.items()]
    return "\n".join(lines) + "\n"


class _Parser(argparse.ArgumentParser):
    """A parser whose files may have empty lines and comments."""

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """The argument of a line."""
        line = arg_line.strip()
        return [] if line.startswith("#") or not line else [line]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        fromfile_prefix_chars="@",
    )
    parser.add_argument("--config", required=True, help="the experiment: a file, or the name of one in configs/")
    values = "a setting and its values; tuples in brackets"
    parser.add_argument("--sweep", action="append", default=[], metavar="KEY=A,B", help=values)
    change = "one more run with these settings; may be repeated"
    parser.add_argument("--change", action="append", default=[], metavar="NAME: KEY=VALUE …", help=change)
    parser.add_argument("--folds", default="", help="test folds (default: all)")
    parser.add_argument("--seeds", default="0", help="consecutive seeds (default: %(default)s)")
    parser.add_argument("--runs", required=True, help="folder of the runs")
    parser.add_argument("--at_once", type=int, default=1, help="runs at a time (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each run (default: all runs share all GPUs)")
    parser.add_argument("--slurm", action="store_true", help="submit to Slurm instead of this machine")
    parser.add_argument("--partition", help="Slurm partition")
    parser.add_argument("--hours", type=float, default=24.0, help="time limit of each run (default: %(default)s)")
    return parser


def main(argv: list[str] | None = None) -> None:
    """The command line. Exit status: 0 done; 1 a run failed; 2 the command line is wrong; 75 a run was interrupted."""
    options, rest = _parser().parse_known_args(argv)
    options.rest = rest
    try:
        if unknown := [word for word in options.rest if not word.startswith("--config.")]:
            raise AblationError(f"unknown argument {unknown[0]}; settings are given as --config.KEY=VALUE")
        if options.at_once < 1:
            raise AblationError(f"--at_once={options.at_once} must be 1 or more")
        from esc_jax import config as configs

        config = configs.load(options.config)
        grid = parse_sweeps(options.sweep, config)
        # A setting on the command line replaces that of a file.
        options.rest = list({word.partition("=")[0]: word for word in options.rest}.values())
        everywhere = [word.removeprefix("--config.").partition("=")[0] for word in options.rest]
        options.changes = parse_changes(options.change, config, [*grid, *everywhere])
        if options.changes:
            grid[_CHANGE] = list(options.changes)
        runs = plan(options, grid)
        check_configs(runs, config)
    except (AblationError, ValueError) as error:
        sys.stderr.write(f"esc_jax: {error}\n")
        sys.exit(2)
    pending = [run for run in runs if not run.done]
    sys.stderr.write(f"{len(runs)} runs, {len(runs) - len(pending)} of them done\n")
    try:
        failed = launch(pending, options) if pending else {}
    except KeyboardInterrupt:
        sys.stderr.write("esc_jax: interrupted; when the runs have stopped, run the same command again\n")
        sys.exit(EX_TEMPFAIL)
    finished = [run for run in runs if run.done]
    if finished:
        text = summary(finished, grid, failed)
        (pathlib.Path(options.runs) / "ablation.md").write_text(text, encoding="utf-8")
        sys.stdout.write(text)
    if failed:
        sys.exit(EX_TEMPFAIL if all(reason.startswith("interrupted") for reason in failed.values()) else 1)


if __name__ == "__main__":
    main()
