"""Comparison of variants of any recipe: runs each with several seeds, draws the curves, writes the table.

The form of figure 1 and of the table of Salimans & Kingma 2016 (arXiv 1602.07868), for any recipe and any of its
options. Each run is a process, one at a time. A finished run is not repeated, and an interrupted one resumes from its
last checkpoint: the same command again continues a comparison, and another variant or seed costs only its own runs.
Before its first run, each variant trains on one batch, so that a mistake shows at once.

From a file, whose keys are these options:
    wnseq run compare --config compare.yaml
From the command line:
    wnseq run compare --recipe image_classifier --metric error_percent --out runs/norms --seeds 0,1,2
        --variants.none "--model.norm none --model.learning_rate 3e-4" --variants.weight "--model.norm weight"
A sweep over one option, which draws the final value against it:
    wnseq run compare --recipe language_model --metric nats_per_token --out runs/rates --variants.weight ""
        --variants.none "--model.norm none" --sweep model.learning_rate --values 1e-3,3e-3,1e-2

Returns, of which more is better, with the statistics of Agarwal et al. 2021 (arXiv 2108.13264):
    wnseq run compare --recipe q_learning --metric mean_return --returns true --out runs/norms --seeds 0,1,2,3,4
        --variants.weight "" --variants.layer "--model.norm layer"

Expect in the folder ``out`` a folder for each run, ``runs.csv``, ``table.md``, and ``curves.png`` or ``sweep.png``.

Deviations from the paper:
1. Curves are means over the seeds with their range; the paper shows one run each.
2. The final figure is that of the checkpoint with the best validation, if the recipe has a validation.
"""

import csv
import hashlib
import importlib.util
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev

from jsonargparse import ArgumentParser

from wnseq.training import plots
from wnseq.training.archives import newest_whole
from wnseq.training.child_process import alone_in, run_child
from wnseq.training.cli.arguments import add_brackets, option_values
from wnseq.training.cli.errors import suggest, user_errors
from wnseq.training.cli.output import safe_output
from wnseq.training.json_files import read_json, write_json
from wnseq.training.run_statistics import bootstrap_interval, interquartile_mean
from wnseq.training.signals import exit_on_signal, handled_signals

TIMER = "--trainer.callbacks+=wnseq.training.callbacks.basic.EpochTime"
DIVERGED = "the training loss is"  # begins the error of TerminateOnNaN
STARTED = "command.json"
FILES = "files.json"
DONE = "finished.json"


@dataclass
class Plan:
    """A comparison.

    Args:
        recipe: Name of an installed recipe, or path of your own file.
        metric: Name of a metric without ``train/``, ``val/`` or ``test/``; smaller is better, unless it is a return.
        out: Folder of the runs and of the results.
        variants: Arguments of each variant, by its name in figure and table.
        arguments: Arguments of all runs.
        seeds: Seeds of each variant.
        sweep: Option to sweep over, without its dashes.
        values: Values of that option, numbers. Each is passed in the fewest digits that are exactly it.
        returns: Whether the metric is a return: larger is better, and the table has the interquartile mean of the
            tests with its 95 % interval by the bootstrap, which is drawn with a dot for each seed.
    """

    recipe: str
    metric: str
    out: str
    variants: dict[str, str]
    arguments: str = ""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    sweep: str | None = None
    values: list[int | float] = field(default_factory=list)
    returns: bool = False

    def __post_init__(self) -> None:
        """Check the values; expand ``~`` in the paths."""
        self.out = str(Path(self.out).expanduser())
        if self.recipe.endswith(".py"):
            self.recipe = str(Path(self.recipe).expanduser())
        for name in ("variants", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty: there is nothing to compare")
        for name in ("seeds", "values"):
            if len(set(given := getattr(self, name))) < len(given):
                raise ValueError(f"{name} must differ, got {given}: a run counts once")
        if self.metric.partition("/")[0] in ("train", "val", "test"):
            raise ValueError(f"metric must be given without train/, val/ or test/, got {self.metric}")
        for name in self.variants:
            if name in (".", "..") or Path(name).name != name:
                raise ValueError(f"the name of a variant is that of a folder, which {name!r} can't be")
        if (self.sweep is None) != (not self.values):
            raise ValueError("sweep and values go together: the option, and what it is set to")


@dataclass
class Run:
    """One run of a variant with a seed, and with a value of the option if the plan sweeps."""

    variant: str
    seed: int
    value: float | None
    folder: Path
    command: list[str]

    @property
    def arguments(self) -> list[str]:
        """Return what makes it the same run: another interpreter or folder of the recipe does not matter."""
        return [Path(self.command[1]).stem, *self.command[2:]]

    def files(self) -> dict[str, str]:
        """Return the sha256 of each file of options that it is given, and of a recipe of the user's own."""
        program = Path(self.command[1])
        named = {path: Path(path) for _, _, path in option_values(self.command, ("--config", "-c"))}
        if program.parent != Path(recipe_file("compare")).parent:
            named[program.name] = program
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in named.items() if path.is_file()}

    def __str__(self) -> str:
        return ", ".join([self.variant, *([exact(self.value)] if self.value is not None else []), f"seed {self.seed}"])


@dataclass
class Result:
    """What a run has logged."""

    run: Run
    series: dict[str, plots.Series]  # steps and values by metric; empty if the run diverged
    best: Callable[[list[float]], float] = min

    @property
    def diverged(self) -> bool:
        """Return True if the loss or the final figure was not finite."""
        return not self.series

    def final(self, name: str) -> float | None:
        """Return the last value of a metric; of a validation the best of all epochs, whichever is tested."""
        if name not in self.series:
            return None
        values = self.series[name][1]
        if name.startswith("val/"):
            return self.best([value for value in values if math.isfinite(value)] or values)
        return values[-1]

    @property
    def seconds(self) -> float | None:
        """Return the median seconds of an epoch, without the first, slower one if there are more."""
        values = self.series.get("train/seconds_per_epoch", ([], []))[1]
        return median(values[1:] or values) if values else None


def exact(value: float) -> str:
    """Return the fewest digits that are exactly the value."""
    return repr(value).removesuffix(".0")  # an option that is an integer refuses 2.0


def runs(plan: Plan) -> Iterator[Run]:
    """Yield the runs, seed by seed, so that an interrupted comparison has all variants."""
    program = recipe_file(plan.recipe)
    for seed in plan.seeds:
        for value in plan.values or [None]:
            for variant, arguments in plan.variants.items():
                folder = Path(plan.out) / variant / f"seed{seed}"
                words = [*shlex.split(plan.arguments), *shlex.split(arguments), "--seed_everything", str(seed)]
                if value is not None:
                    folder = Path(plan.out) / variant / f"{plan.sweep}={exact(value)}" / f"seed{seed}"
                    words += [f"--{plan.sweep}", exact(value)]
                words += [TIMER, "--trainer.default_root_dir", str(folder)]
                yield Run(variant, seed, value, folder, [sys.executable, program, "fit", *words])


def recipe_file(recipe: str) -> str:
    """Return the path of a recipe's file."""
    if recipe.endswith(".py"):
        if Path(recipe).is_file():
            return recipe
        raise ValueError(f"there is no recipe at {recipe}")
    found = importlib.util.find_spec(f"wnseq.recipes.{recipe}") if recipe.isidentifier() else None
    if found is None or found.origin is None:
        raise ValueError(f"there is no recipe {recipe!r}; `wnseq list` shows them, and the path of a file works too")
    return found.origin


def check_variants(plan: Plan, layout: list[Run]) -> None:
    """Run one batch of each variant that has no finished run yet, so that mistakes show before the work.

    Raises:
        ValueError: A process failed, or logs no such metric.
    """
    for variant in plan.variants:
        of = [run for run in layout if run.variant == variant]
        results = [collect(run) for run in of if read_json(run.folder / DONE)]
        series = next((result.series for result in results if not result.diverged), None)
        if series is not None:
            logged = [name.removeprefix("test/") for name in series if name.startswith("test/")]
        else:
            print(f"checking {variant} …", end=" ", flush=True)
            command = [*of[0].command, "--trainer.fast_dev_run", "true"]
            trial = subprocess.run(command, capture_output=True, text=True)
            if trial.returncode and DIVERGED in trial.stderr:
                print("it runs, and diverges", flush=True)
                continue
            if trial.returncode:
                tail = "\n".join(trial.stderr.splitlines()[-5:])
                raise ValueError(f"the variant {variant} ended with status {trial.returncode}:\n{tail}")
            logged = re.findall(r"^test/(\S+) ", trial.stdout, re.MULTILINE)
        if plan.metric not in logged:
            near = suggest(plan.metric, logged)
            raise ValueError(f"{plan.recipe} logs no test/{plan.metric}, but {', '.join(logged) or 'nothing'}.{near}")
        if series is None:
            print("it runs", flush=True)


def check_command(run: Run) -> None:
    """Check that the run's folder, finished or not, holds no run of another command.

    Raises:
        ValueError: It does.
    """
    before = read_json(run.folder / STARTED)
    # the last argument is the folder itself: one that was moved, or is given as another path, holds the same run
    if before is not None and before[:-1] != run.arguments[:-1]:
        raise ValueError(
            f"{run.folder} holds a run of another command ({shlex.join(before)}). Delete the folder, or give another "
            "name to the variant or another out."
        )
    files = read_json(run.folder / FILES) or {}
    if changed := [name for name, now in run.files().items() if files.get(name, now) != now]:
        raise ValueError(
            f"{run.folder} holds a run of other contents of {' and '.join(changed)}. Delete the folder, or give "
            "another name to the variant or another out."
        )


def execute(run: Run) -> None:
    """Run one process to its end, resumed from its last checkpoint if it has one.

    Raises:
        ValueError: The folder holds a run of another command, or the process failed.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    check_command(run)  # again, since another comparison may have used the folder meanwhile
    write_json(run.folder / STARTED, run.arguments)
    write_json(run.folder / FILES, run.files())
    output = run.folder / "output.txt"
    with alone_in(run.folder) as held, output.open("ab") as file:
        newest = newest_whole(*run.folder.glob("*/*/checkpoints"))
        command = [*run.command, *(["--ckpt_path", str(newest)] if newest else [])]
        status = run_child(command, file, held)
    if status:
        lines = output.read_text("utf-8", "replace").splitlines()
        if not any(DIVERGED in line for line in lines[-4:]):
            tail = "\n".join(lines[-5:])
            raise ValueError(f"the run {run} ended with status {status}; {output} ends with:\n{tail}")
    write_json(run.folder / DONE, {"diverged": bool(status)})


def collect(run: Run, best: Callable[[list[float]], float] = min) -> Result:
    """Read what a finished run has logged; of a resumed run, the last value of each step.

    Raises:
        ValueError: It has no log.
    """
    if read_json(run.folder / DONE)["diverged"]:
        return Result(run, {})
    merged: dict[str, dict[int, float]] = {}
    logs = [*run.folder.glob("*/*/metrics.csv")]
    if not logs:
        raise ValueError(f"{run.folder} has no */*/metrics.csv: a run that is compared needs its CSV logger")
    for log in sorted(logs, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        for name, (steps, values) in plots.read_metrics(log).items():
            merged.setdefault(name, {}).update(zip(steps, values, strict=True))
    return Result(run, {name: (sorted(of), [of[step] for step in sorted(of)]) for name, of in merged.items()}, best)


def spread(values: list[float | None]) -> str:
    """Format mean and standard deviation over the seeds."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    return f"{fmean(known):.4g}" + (f" ± {stdev(known):.2g}" if len(known) > 1 else "")


def middle_half(values: list[float]) -> str:
    """Format the interquartile mean of some runs and its interval."""
    if not values:
        return ""
    low, high = bootstrap_interval(values)
    return f"{interquartile_mean(values):.4g} [{low:.4g}, {high:.4g}]"


def table(plan: Plan, results: list[Result]) -> str:
    """Return the final figures as a table in markdown."""
    swept = [plan.sweep.split(".")[-1].replace("_", " ")] if plan.sweep else []
    metrics = [f"test/{plan.metric}", f"val/{plan.metric}", f"train/{plan.metric}"]
    middle = ["interquartile mean [95 %]"] if plan.returns else []
    head = ["variant", *swept, "runs", *middle, *metrics, "seconds per epoch"]
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    for variant in plan.variants:
        for value in plan.values or [None]:
            of = [result for result in results if (result.run.variant, result.run.value) == (variant, value)]
            if not of:
                continue
            failed = sum(result.diverged for result in of)
            figures = [spread([result.final(name) for result in of]) for name in metrics]
            count = f"{len(of)}" + (f" ({failed} diverged)" if failed else "")
            at = [exact(value)] if value is not None else []
            tests = [value for value in (result.final(metrics[0]) for result in of) if value is not None]
            middle = [middle_half(tests)] if plan.returns else []
            lines.append([variant, *at, count, *middle, *figures, spread([result.seconds for result in of])])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(plan: Plan, results: list[Result]) -> None:
    """Write the table and the figure of the results."""
    out = Path(plan.out)
    names = [f"test/{plan.metric}", f"val/{plan.metric}", f"train/{plan.metric}"]
    with (out / "runs.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["variant", plan.sweep or "", "seed", "diverged", *names, "seconds_per_epoch"])
        for each in results:
            value = "" if each.run.value is None else exact(each.run.value)
            figures = [*map(each.final, names), each.seconds]
            rows.writerow([each.run.variant, value, each.run.seed, each.diverged, *figures])
    (out / "table.md").write_text(table(plan, results), "utf-8")
    title = Path(plan.recipe).stem.replace("_", " ")
    if plan.sweep:
        points = {
            variant: [(result.run.value, result.final(names[0])) for result in results if result.run.variant == variant]
            for variant in plan.variants
        }
        plots.plot_sweep(
            points, out / "sweep.png", option=plan.sweep, metric=names[0], title=title, returns=plan.returns
        )
    else:
        kept = {}  # the runs that did not diverge, by what a figure calls their variant
        for variant in plan.variants:
            of = [result for result in results if result.run.variant == variant]
            failed = sum(result.diverged for result in of)
            name = f"{variant} ({failed} of {len(of)} diverged)" if failed else variant
            kept[name] = [result for result in of if not result.diverged]
        curves = {name: [result.series for result in of] for name, of in kept.items()}
        plots.plot_variants(curves, out / "curves.png", metric=plan.metric, title=title, log=not plan.returns)
        if plan.returns:
            finals = {name: [result.final(names[0]) for result in of] for name, of in kept.items()}
            found = {name: (values, interquartile_mean(values), bootstrap_interval(values))
                     for name, values in finals.items() if values}  # fmt: skip
            plots.plot_dots(found, out / "returns.png", metric=names[0], title=title)


def compare(plan: Plan) -> dict[str, float]:
    """Run what is not finished, write table and figure; return each variant's mean final test metric."""
    layout = list(runs(plan))
    for run in layout:  # of finished ones too: their results would pass for those of this command
        check_command(run)
    check_variants(plan, layout)
    results = []
    for number, run in enumerate(layout, start=1):
        known = read_json(run.folder / DONE) is not None
        if not known:
            print(f"{number}/{len(layout)} {run} …", end=" ", flush=True)
            execute(run)
        result = collect(run, max if plan.returns else min)
        figure = result.final(f"test/{plan.metric}")
        if figure is not None and not math.isfinite(figure):  # such as the perplexity of a large loss
            result = Result(run, {})
        results.append(result)
        if not result.diverged and figure is None:
            raise ValueError(f"the runs of {plan.recipe} log no test/{plan.metric}; {run.folder} has what they log")
        if not known:
            print("diverged" if result.diverged else f"test/{plan.metric} {figure:.4g}", flush=True)
    write(plan, results)
    print(f"\n{table(plan, results)}\nresults  {os.path.relpath(plan.out)}")
    means = {}
    for variant in plan.variants:
        for value in plan.values or [None]:
            of = [r for r in results if (r.run.variant, r.run.value) == (variant, value) and not r.diverged]
            if of:
                name = variant if value is None else f"{variant}, {exact(value)}"
                means[name] = fmean(result.final(f"test/{plan.metric}") for result in of)
    return means


def main(args: list[str] | None = None) -> dict[str, float]:
    """Run the command line; return the mean final test metric of each variant."""
    parser = ArgumentParser(prog="compare", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", action="config", help="A YAML file with these options.")
    parser.add_class_arguments(Plan, as_group=False)
    with safe_output(), user_errors():
        words = add_brackets(sys.argv[1:] if args is None else args, Plan)
        plan = Plan(**{name: value for name, value in parser.parse_args(words).as_dict().items() if name != "config"})
        try:
            with handled_signals(exit_on_signal):
                return compare(plan)
        except SystemExit:
            print("\nstopped; the same command continues", flush=True)
            raise


if __name__ == "__main__":
    main()
