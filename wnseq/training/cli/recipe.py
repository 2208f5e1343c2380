"""The command line of every recipe: LightningCLI with the project's defaults."""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from wnseq._files import remove_abandoned
from wnseq.training._lightning_internals import FlagsFirstCLI, subparsers
from wnseq.training.allocator import keep_freed_memory
from wnseq.training.callbacks.basic import CheckMonitors, Throughput
from wnseq.training.callbacks.graceful_stop import GracefulShutdown, exit_on_signals
from wnseq.training.callbacks.progress import format_number
from wnseq.training.cli.checkpoint_commands import Command, describe_commands, run_checkpoint_command
from wnseq.training.cli.errors import user_errors
from wnseq.training.cli.log_filter import filter_lightning_logs
from wnseq.training.cli.loggers import expand_logger_names, log_results, make_loggers
from wnseq.training.cli.output import safe_output
from wnseq.training.cli.parser import RecipeParser, find_nulls, insert_subcommand, read_config_files, with_defaults
from wnseq.training.cli.presets import describe_presets, expand_preset_names
from wnseq.training.cli.problems import check_trainer_options, collect_problems
from wnseq.training.cli.process_state import process_command_line, restored_process_state
from wnseq.training.cli.resumed_run import SaveConfig, changed_flags, expand_resume, training_in
from wnseq.training.cli.run_folder import make_run_folder, name_of_runs, run_files
from wnseq.training.cli.run_parts import (
    NoProfiler,
    add_fit_options,
    best_checkpoint,
    build_callbacks,
    build_plugins,
    check_trainer,
    give_checkpoint,
)
from wnseq.training.cli.starting_point import StartingPoint, describe_start, find_start, given_options, limit_of_epochs
from wnseq.training.cli.stopped_run import stopped_run
from wnseq.training.plots._curves import plot_run
from wnseq.training.run_log import logged_before

__all__ = ["RecipeCLI", "run"]

RUN_FOLDER = "WNSEQ_RUN"  # by this variable the processes that Lightning starts learn the folder of the run
Precision = Literal["highest", "high", "medium"]
DESCRIPTIONS = {
    "fit": "Train, test the best checkpoint, and show the result.",
    "validate": "Measure a checkpoint on the validation data.",
    "test": "Measure a checkpoint on the test data.",
    "predict": "Show what the model of a checkpoint does: a recipe samples, or writes its predictions.",
}


class RecipeCLI(FlagsFirstCLI):
    """LightningCLI that trains, tests the best checkpoint, reports, and prints where the files of the run are.

    A recipe overrides :meth:`report`, :meth:`callbacks` and ``mode``, and Lightning's hooks ``add_arguments_to_parser``
    and ``before_instantiate_classes``, which are empty here.

    Args:
        model_class: The recipe's LightningModule.
        data_class: Its LightningDataModule.
        recipe: Its name, which its checkpoints carry. The runs go to ``<trainer.default_root_dir>/<file>/<number>``,
            where file is the name of the file that holds the model: that of a copied recipe is its own.
        monitor: The metric whose smallest value, or with ``mode`` max the largest, makes a checkpoint the best.
        defaults: Defaults of options by name: ``{"trainer.max_epochs": 10}``.
        arguments: The command line, the subcommand first.
        program: The words that precede the arguments.
        commands: The further commands of the recipe, which its help names.
    """

    mode: Literal["min", "max"] = "min"

    def __init__(
        self,
        model_class: type[LightningModule],
        data_class: type[LightningDataModule],
        *,
        recipe: str,
        monitor: str,
        defaults: dict[str, Any],
        arguments: Sequence[str],
        program: str,
        commands: Sequence[Command] = (),
    ) -> None:
        self.recipe, self.program, self.monitor, self.defaults = recipe, program, monitor, defaults
        self.name, self.commands = name_of_runs(model_class, recipe), commands
        self.arguments = self.typed = list(arguments)
        self.run_dir: Path | None = None
        self.metrics: dict[str, float] = {}
        self.start: StartingPoint | None = None
        self.resumed_run: Path | None = None
        self.notes: list[str] = []  # lines for the screen before the training
        self._shutdown = GracefulShutdown()
        super().__init__(
            model_class,
            data_class,
            parser_class=RecipeParser,
            parser_kwargs={
                "prog": program,
                "description": f"The recipe {recipe}. Without a subcommand it runs fit, which trains, then tests the "
                "best checkpoint. `fit --help` lists every option."
                f"{describe_presets(recipe)}{describe_commands(commands)}",
                **{name: {"description": text} for name, text in DESCRIPTIONS.items()},
            },
            trainer_defaults={
                "default_root_dir": "runs",
                "num_sanity_val_steps": 0,  # noise on the screen, and a state of its own to keep apart
                "use_distributed_sampler": False,  # it would tear contiguous text apart
                "enable_model_summary": False,
                "log_every_n_steps": 10,
            },
            seed_everything_default=0,
            auto_configure_optimizers=False,
            # False: a checkpoint's hyper-parameters are the constructor's arguments, not the parsed configuration
            load_from_checkpoint_support=False,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
        )

    def report(self) -> None:
        """Show the result after training and test, such as a sample. Nothing by default."""

    def callbacks(self) -> list[Callback]:
        """Return the recipe's callbacks: by default the throughput in tokens, which are the targets of a batch."""
        return [Throughput("tokens", lambda batch: batch.targets.numel())]

    def choose_defaults(self, options: Namespace, defaults: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """Return defaults of ``fit`` that depend on its options, such as the size of its data. None by default.

        Args:
            options: Options of the command.
            defaults: Defaults that the checkpoint decides, which come before those returned.
            given: Names of the options that the command has by itself.
        """
        return {}

    # ---- parsing -----------------------------------------------------------------------------------------------

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands, without the options that would do nothing here."""
        unused = {"weights_only", "verbose", "return_predictions"}
        return {name: skipped | unused for name, skipped in FlagsFirstCLI.subcommands().items()}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return Lightning's parser, which refuses abbreviations here."""
        parser = super().init_parser(allow_abbrev=False, **kwargs)
        cast("RecipeParser", parser).further_commands = [each.__name__ for each in self.commands]
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that do not belong to the Trainer, the model or the data."""
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--matmul_precision",
            type=Precision,
            default="highest",
            help="Precision of float32 matrix products. 'medium' makes linear layers about twice as fast on a CPU "
            "(relative error 4e-7 without AMX; with AMX, or on a GPU, they compute in bfloat16 or TF32).",
        )
        if parser.description == DESCRIPTIONS["fit"]:
            add_fit_options(parser)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of Trainer, model and data, with the recipe's defaults."""
        super().add_core_arguments_to_parser(parser)
        parser.set_defaults(self.defaults)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and fill in the defaults that a checkpoint or the data decide."""
        with user_errors():
            words, run = expand_resume(self.typed, self.name)
            self.arguments = expand_logger_names(expand_preset_names(words, self.recipe))
            read_config_files(self.arguments)  # whose mistakes it names
        self.config = parser.parse_args(self.arguments)
        subcommand = self.config.subcommand
        options = self.config[subcommand]
        subparser = subparsers(parser)[subcommand]
        classes = {"model": self.model_class, "data": self.datamodule_class, "trainer": Trainer}
        if nulls := find_nulls(classes, options):
            subparser.error(f"null is no value of {', '.join(nulls)}.")
        with user_errors():
            given = given_options(parser.parse_args(self.arguments, defaults=False)[subcommand])
            own = given if subcommand == "fit" else ()
            start = find_start(options, self._runs_folder(options), self.recipe, self.model_class, own, run)
            self.start, self.resumed_run = start, None if start is None else start.run
            if start is None and subcommand != "fit":
                subparser.error(f"{subcommand} needs --ckpt_path: a file, or best or last of the newest run")
            defaults = {} if start is None else start.defaults(self.datamodule_class, given, subcommand)
            if subcommand == "fit":
                self.notes += describe_start(start, given, subparser.get_default)
                defaults = self.choose_defaults(options, defaults, given) | limit_of_epochs(options) | defaults
        if defaults:
            self.config = with_defaults(parser, self.arguments, self.config, defaults, given)
        if start is not None:
            if subcommand != "fit" and start.progress and os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"{os.path.relpath(start.path)}: {start.progress}", file=sys.stderr)
            with user_errors():
                start.apply(self.config[subcommand], subcommand, self.model_class)
                if self.resumed_run is not None:
                    self.notes += changed_flags(self.resumed_run, self.config[subcommand].trainer)

    def _runs_folder(self, options: Namespace) -> Path:
        return Path(options.trainer.default_root_dir).expanduser() / self.name

    # ---- building ----------------------------------------------------------------------------------------------

    def instantiate_classes(self) -> None:
        """Set the precision, then build data, model and Trainer; report the problems of all three at once."""
        options = self.config[self.config.subcommand]
        torch.set_float32_matmul_precision(options.matmul_precision)
        try:
            check_trainer_options(options.trainer)
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            classes = {"model": self.model_class, "data": self.datamodule_class}
            if (every := collect_problems(error, classes, options)) is error:
                raise
            raise every from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the user's flags and callbacks, and add the project's."""
        options = self.config_init[self.subcommand].trainer
        if re.search("spawn|fork|notebook", str(options.strategy)):
            raise ValueError(
                f"--trainer.strategy {options.strategy} trains in processes that end with the training, and this "
                "program has no model to test and to sample from then. Use --trainer.strategy ddp, which starts the "
                "whole program once for each device."
            )
        if self.subcommand != "fit" or options.fast_dev_run or options.barebones:  # these leave no files
            self.save_config_callback = None
            kwargs["logger"] = False if options.logger in (None, True) else options.logger
        else:
            self.run_dir = self._make_run_folder()
            for folder in self.run_dir.parent.glob("*/checkpoints"):
                remove_abandoned(folder)
            kwargs["default_root_dir"] = str(self.run_dir)
            purge_step = logged_before(self.start.content) if self.start and self.start.run else None
            kwargs["logger"] = make_loggers(self.run_dir, options.logger, purge_step)
        if options.barebones:
            kwargs |= {"log_every_n_steps": None}  # barebones refuses any other value
        else:
            kwargs["callbacks"] = build_callbacks(
                options,
                [*self.callbacks(), self._shutdown],
                self.config_init[self.subcommand].get("checkpoint"),
                monitor=self.monitor,
                mode=self.mode,
                folder=self.run_dir,
                logs=bool(kwargs["logger"]),
                start=self.start if self.subcommand == "fit" else None,
            )
            kwargs["plugins"] = build_plugins(options, self.start)
            kwargs["profiler"] = options.profiler or NoProfiler()
            if any(isinstance(callback, CheckMonitors) for callback in kwargs["callbacks"]):
                kwargs["num_sanity_val_steps"] = options.num_sanity_val_steps or 1
        try:
            return check_trainer(super().instantiate_trainer(**kwargs), self.model, self.subcommand)
        except BaseException:
            if self.run_dir is not None and self.run_dir.is_dir() and self.run_dir != self.resumed_run:
                self.run_dir.rmdir()
            raise

    def _make_run_folder(self) -> Path:
        if self.resumed_run is not None:
            return self.resumed_run
        is_first = os.environ.get("LOCAL_RANK", "0") == "0"
        if not is_first and RUN_FOLDER in os.environ:
            return Path(os.environ[RUN_FOLDER])
        folder = make_run_folder(self._runs_folder(self.config_init[self.subcommand]))
        if is_first:
            os.environ[RUN_FOLDER] = str(folder)
        return folder

    # ---- running -----------------------------------------------------------------------------------------------

    def fit(self, **kwargs: Any) -> None:
        """Train. If stopped, print how to resume; remove the folder of a run that never took a step."""
        if self.trainer.is_global_zero and self.notes:
            print("\n".join(self.notes))
        writes = self.run_dir if self.trainer.is_global_zero else None
        with self._stopped_run(), training_in(writes), self.start.lending() if self.start else nullcontext():
            self.trainer.fit(**kwargs)
            self._shutdown.stop_if_requested()  # after the last batch

    def _stopped_run(self) -> AbstractContextManager[None]:
        is_new = self.run_dir != self.resumed_run
        return stopped_run(self.trainer, self._shutdown, self.run_dir, self.typed, self.program, is_new=is_new)

    def validate(self, **kwargs: Any) -> None:
        """Validate and print the metrics."""
        self._store_metrics(self.trainer.validate(**kwargs, verbose=False))
        self._print_measured("val")

    def test(self, **kwargs: Any) -> None:
        """Test and print the metrics."""
        self._store_metrics(self.trainer.test(**kwargs, verbose=False))
        self._print_measured("test")

    def after_fit(self) -> None:
        """Test the best checkpoint, report, draw the curves, and print where everything is."""
        with self._stopped_run(), self._shutdown.handling(self.trainer):
            best = best_checkpoint(self.trainer)
            measured = give_checkpoint(self.trainer, best)["metrics"] if best else self.trainer.callback_metrics
            self.metrics = {name: float(value) for name, value in measured.items() if name.startswith("val/")}
            self._store_metrics(self.trainer.test(self.model, self.datamodule, ckpt_path=best, verbose=False))
            self._shutdown.stop_if_requested()
            if self.trainer.is_global_zero:
                self._shutdown.stop_at_once()
                self._show_results(best)

    def _show_results(self, best: Path | None) -> None:
        self.report()
        print()
        self._print_metrics()
        if best is None:
            print("no checkpoint was written: the metrics are those of the final weights")
        else:
            print(f"{'checkpoint':<11}  {os.path.relpath(best)}")
        if self.run_dir is not None:
            title = self.name.replace("_", " ")
            plot_run(self.run_dir, metric=self.monitor.removeprefix("val/"), mode=self.mode, title=title)
            log_results(self.trainer.loggers, self.run_dir, self.trainer.global_step)
            for name, path in run_files(self.run_dir).items():
                print(f"{name:<11}  {os.path.relpath(path)}")

    def _store_metrics(self, results: Sequence[Any]) -> None:
        self.metrics |= {name: float(value) for result in results for name, value in result.items()}

    def _print_measured(self, part: str) -> None:
        self._print_metrics()
        if self.trainer.is_global_zero and self.start is not None:
            print("\n".join(self.start.describe_measured(self.datamodule, part, self.trainer)))

    def _print_metrics(self) -> None:
        if self.trainer.is_global_zero:
            width = max(map(len, self.metrics), default=0)
            for name, value in self.metrics.items():
                print(f"{name:<{width}} {format_number(value)}")


def run(
    model_class: type[LightningModule],
    data_class: type[LightningDataModule],
    *,
    recipe: str,
    args: Sequence[str] | None,
    monitor: str = "val/nats_per_token",
    defaults: dict[str, Any] | None = None,
    cli_class: type[RecipeCLI] = RecipeCLI,
    commands: Sequence[Command] = (),
) -> dict[str, float]:
    """Run a recipe's command line: the body of every recipe's ``main``.

    Only with ``args=None``, as a program's entry point, does it change the C library's allocator. It restores the
    environment, ``sys.argv`` and torch's settings.

    Args:
        model_class: The recipe's LightningModule.
        data_class: Its LightningDataModule.
        recipe: Its name, which its checkpoints carry and by which its presets are found.
        args: The command line; None means that of the process. Without a subcommand it runs ``fit``.
        monitor: The metric that makes a checkpoint the best, by its smallest value unless the class says otherwise.
        defaults: Defaults of options by name: ``{"trainer.max_epochs": 10}``.
        cli_class: The class with the recipe's changes to the command line.
        commands: Functions that make another file of a checkpoint, each a subcommand of its name.

    Returns:
        The final metrics: ``test/*``, and ``val/*`` of the checkpoint that was tested.

    Raises:
        SystemExit: 2 for a misspelt option or wrong value, 1 for any other mistake of the user, 130, 143 and 129
            after SIGINT, SIGTERM and SIGHUP, 0 after ``--help``; also when called from Python, caused by the original
            exception.
    """
    with restored_process_state():
        program, ends_process = recipe, args is None
        if args is None:
            keep_freed_memory()
            args, program = process_command_line(recipe)
        with safe_output(), filter_lightning_logs(), exit_on_signals(ends_process=ends_process), user_errors():
            if run_checkpoint_command(commands, args, model_class, recipe, program):
                return {}
            cli = cli_class(
                model_class,
                data_class,
                recipe=recipe,
                monitor=monitor,
                defaults=defaults or {},
                arguments=insert_subcommand(args),
                program=program,
                commands=commands,
            )
    return cli.metrics
