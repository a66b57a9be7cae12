"""Trains models in one linear loop, which can be killed at any step and resumed exactly.

    nextpixel train --config recipes/mnist/mnist.yaml --out runs/mine
    nextpixel train --resume runs/mine
    torchrun --nproc-per-node 2 -m nextpixel train --config RECIPE.yaml --out runs/mine

A run folder holds `config.yaml` (the resolved configuration), `metrics.jsonl`, `tensorboard/`,
`samples/` (previews), the models `best/` and `last/` (both with averaged weights), `state.pt`, the
checkpoint to resume from, and after training `report.html` with its charts, `curve.svg` and
`scale.svg`.
"""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from PIL.Image import Image
from torch import Tensor, nn

from nextpixel import data as npx_data
from nextpixel.data import Dataset
from nextpixel.errors import Stopped, UserError
from nextpixel.evaluation.likelihood import diagnose, evaluate
from nextpixel.models.base.image_model import Conditioning, ImageModel, in_orders
from nextpixel.nn import checkpointing
from nextpixel.noise import make_seed, seeded
from nextpixel.training.checkpoint import load_state, save_state
from nextpixel.training.config import TrainArgs, learning_rate
from nextpixel.training.logs import Log, ShowStep, metrics_log, progress_bar
from nextpixel.training.optimizer import make_optimizer
from nextpixel.training.previews import draw_preview
from nextpixel.training.run_folder import drop_later_metrics, write_config
from nextpixel.training.watch import DivergenceError, LossWatch
from nextpixel.utils.files import remove_parts
from nextpixel.viz import images as pictures

__all__ = ["Run", "update_average"]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Updates the moving average of a model's weights after a step, which counts from 1.

    The first steps use a smaller decay, (1 + step) / (10 + step). Buffers are copied.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step)) if decay else 1.0
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(new, weight)
    for old, buffer in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(buffer)


class Run:
    """Holds a run's model, the moving average of its weights, its optimizer and its folder.

    Attributes:
        model: The model that is trained.
        wrapped: The same model as Fabric wraps it; training calls this one.
        ema: A copy of the model with averaged weights, which is scored and saved.
        step: Steps done.
        pending: The metrics of the last step, if it is not logged yet because its validation was
            interrupted.
        saved_step: The step of the last checkpoint.
        best: The lowest validation score so far, in bits/dim.
        stale: Validations in a row without a new best.
        setbacks: How often training went back to a checkpoint with half the learning rate.
        watch: The loss so far, to notice when training goes wrong.
        clock: Training time in seconds, the same on all ranks; updated after every step.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: ImageModel,
        data: Dataset,
        args: TrainArgs,
        out: Path,
        settings: Mapping[str, Any],
    ) -> None:
        self.fabric, self.data, self.args = fabric, data, args
        self.out, self.settings = out, settings
        # The mean over the split, not over a batch: each nat has the same weight, so the expected
        # loss is the bits/dim of all training images together.
        self.mean_sites = float(data.train.sites().mean())
        self.model = model.train()
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of torch
        self.ema = copy.deepcopy(model).to(fabric.device).eval().requires_grad_(False)
        optimizer = make_optimizer(model, args)
        self.wrapped, self.optimizer = fabric.setup(model, optimizer)
        self.wrapped.mark_forward_method("objective")
        self.step = self.saved_step = self.stale = self.setbacks = 0
        self.pending: dict[str, float] | None = None
        self.best = math.inf
        images = args.batch_size * fabric.world_size
        self.watch = LossWatch(math.log2(data.levels), args.warmup, images)
        self.clock = self.saved_clock = 0.0
        self.started = time.perf_counter()  # moved back on resuming, by the time spent before

    # --- the loop ---------------------------------------------------------------------------------

    def train(self, resume: bool, interrupted: Callable[[], int]) -> None:
        """Trains to the end, or to the end of the step in which it is interrupted.

        Args:
            resume: Whether to resume the run from its last checkpoint.
            interrupted: Returns the number of the signal that asked to stop, or 0.

        Raises:
            Stopped: It was interrupted, and a checkpoint is saved.
        """
        if resume:
            self.load()
        else:
            self.begin()
        while True:
            try:
                return self.run_steps(interrupted)
            except DivergenceError as problem:
                self.go_back(problem)

    def run_steps(self, interrupted: Callable[[], int]) -> None:
        """Trains to the end, see `train`.

        Raises:
            DivergenceError: Training has gone wrong since the last checkpoint.
        """
        main_process = self.fabric.is_global_zero
        with (
            metrics_log(self.out, self.step, main_process) as log,
            progress_bar(self.step, self.args.steps, main_process, self.seconds_left()) as show,
        ):
            while self.pending is not None or not self.is_finished():
                if self.pending is None:
                    began = time.perf_counter()
                    self.pending = self.train_step()
                    self.step += 1
                    images = self.args.batch_size * self.fabric.world_size
                    speed = images / (time.perf_counter() - began)
                    self.pending["images_per_second"] = round(speed, 1)
                    show(self.step, self.pending["loss"], speed)
                    self.watch.check(self.step, self.pending["loss"])
                self.end_step(interrupted, log, show)
        if self.has_stalled() and self.step < self.args.steps and main_process:
            print(
                f"Stopped early, at step {self.step:,}: {self.stale} validations without a new "
                "best score.",
                file=sys.stderr,
            )

    def end_step(self, interrupted: Callable[[], int], log: Log, show: ShowStep) -> None:
        """Validates, logs and saves, whatever is due after a step.

        Raises:
            Stopped: It was interrupted, and a checkpoint is saved.
        """
        args, metrics = self.args, cast("dict[str, float]", self.pending)
        stop = self.synchronise(interrupted)
        validated: tuple[dict[str, float], Image | None] | None = {}, None
        if self.step % args.valid_every == 0 or self.is_finished():
            self.check_weights()
            if self.clock > self.saved_clock + 30:
                self.save()  # the validation may take long, and be killed
            validated = None if stop else self.validate(show, interrupted)
            stop = self.synchronise(interrupted)
        if validated is not None:
            metrics |= validated[0]
            log({"step": self.step, **metrics, "seconds": round(self.seconds, 2)}, validated[1])
            self.pending = None
        last = self.is_finished() and self.pending is None
        overdue = self.clock > self.saved_clock + 60 * args.save_minutes
        # A step whose loss has jumped does not replace a good checkpoint, to which `go_back` goes.
        if last or (
            (stop or overdue or self.step % args.save_every == 0)
            and self.watch.is_calm(metrics["loss"])
        ):
            self.check_weights()
            self.save()
        elif stop and self.fabric.is_global_zero:
            print(
                f"The loss has just jumped: the checkpoint of step {self.saved_step:,} is kept.",
                file=sys.stderr,
            )
        if stop and not last:
            raise Stopped(stop)

    def is_finished(self) -> bool:
        """Checks whether the last step is done, the time is over, or validation has stalled."""
        args = self.args
        return (
            self.step >= args.steps
            or (args.minutes is not None and self.clock >= 60 * args.minutes)
            or self.has_stalled()
        )

    def seconds_left(self) -> Callable[[], float] | None:
        """Returns a function for the seconds until the time is over; None without `minutes`."""
        minutes = self.args.minutes
        return None if minutes is None else lambda: 60 * minutes - self.clock

    def has_stalled(self) -> bool:
        """Checks whether the last validations have brought no new best score."""
        return self.args.patience is not None and self.stale >= self.args.patience

    def synchronise(self, interrupted: Callable[[], int]) -> int:
        """Shares among the ranks what they must agree on.

        Returns:
            The number of the signal that asked one of the ranks to stop, or 0.
        """
        own = [float(interrupted()), 0.0, 0.0]
        if self.fabric.is_global_zero:
            own[1:] = [self.seconds, float(self.stale)]
        shared = self.fabric.all_reduce(torch.tensor(own, dtype=torch.float64), reduce_op="max")
        stop, self.clock, stale = cast(Tensor, shared).tolist()
        self.stale = int(stale)
        return int(stop)

    def go_back(self, problem: DivergenceError) -> None:
        """Goes back to the last checkpoint, to train from there with half the learning rate.

        Raises:
            UserError: It has gone back as often as `train.setbacks` allows.
        """
        again = self.setbacks + 1
        if again > self.args.setbacks:
            times = f", after going back {self.setbacks} times" if self.setbacks else ""
            raise UserError(
                f"{problem}{times}: training stops. The checkpoint of step {self.saved_step} in "
                f"{self.out} is intact: resume it with a lower train.lr."
            ) from None
        self.optimizer.zero_grad()
        self.load_checkpoint()
        self.setbacks = again
        self.tidy_folder()
        self.save()
        if self.fabric.is_global_zero:
            print(
                f"{problem}: going back to step {self.step:,} with half the learning rate "
                f"(setback {again} of at most {self.args.setbacks}).",
                file=sys.stderr,
            )

    # --- a step -----------------------------------------------------------------------------------

    def train_step(self) -> dict[str, float]:
        """Takes an optimizer step; changes nothing where the loss or the gradient is not finite."""
        x, conditioning = self.batch()
        rate = self.set_learning_rate()
        torch.manual_seed(self.noise_seed())
        loss = self.mean(self.backward(x, conditioning))
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergenceError(
                f"At step {self.step + 1:,} the loss is {loss} and the gradient's norm {norm}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.update_codebook(x, conditioning)
        update_average(self.ema, self.model, self.step + 1, self.args.ema)
        return {"loss": loss, "lr": rate, "grad_norm": norm}

    def batch(self) -> tuple[Tensor, Conditioning]:
        """Reads the images of the next step, which depend on the seed and the step alone."""
        args, images = self.args, self.data.train
        rank, world = self.fabric.global_rank, self.fabric.world_size
        numbers = npx_data.batch_indices(
            len(images), args.batch_size, self.step, seed=args.seed, rank=rank, world=world
        )
        draw = (args.seed, self.step * world + rank)
        x, conditioning = self.model.inputs(images, numbers, self.noise_seed(2) >> 1, draw)
        if conditioning.context is not None and args.drop_context:
            random = seeded(self.noise_seed(1)).random(len(x))
            context = conditioning.context.null(torch.from_numpy(random < args.drop_context))
            conditioning = replace(conditioning, context=context)
        if self.model.orders > 1:
            order = seeded(self.noise_seed(4)).integers(self.model.orders, size=len(x))
            x, conditioning = in_orders(x, conditioning, order, self.model.orders)
        return x.to(self.fabric.device), conditioning

    def set_learning_rate(self) -> float:
        """Sets the learning rate of the next step, and returns it."""
        rate = learning_rate(self.step + 1, self.args, self.clock) * 0.5**self.setbacks
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def backward(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Adds up the gradient of a batch, part by part, and returns its loss in bits/dim."""
        parts = self.parts(x)
        losses = []
        for i, part in enumerate(parts):
            with self.fabric.no_backward_sync(self.wrapped, enabled=i < len(parts) - 1):
                loss = self.loss(x[part], conditioning[part]) * (len(part) / len(x))
                loss = loss / (self.mean_sites * math.log(2))
                self.fabric.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def loss(self, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Computes the mean loss of images, in nats per image."""
        # Fabric itself wraps `forward` in autocast, but no other method.
        with self.fabric.autocast(), checkpointing(self.args.checkpoint_activations):
            nats: Tensor = self.wrapped.objective(x, conditioning.context, conditioning.mask)
            return -nats.mean()

    def parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """Divides a batch into the parts of `train.accumulate`, as indices of its images."""
        return torch.arange(len(x)).tensor_split(self.args.accumulate)

    def update_codebook(self, x: Tensor, conditioning: Conditioning) -> None:
        """Updates what follows no gradient, such as a codebook; see `ImageModel.after_step`."""
        parts = [(x[part], conditioning[part].mask) for part in self.parts(x)]
        with torch.no_grad(), self.fabric.autocast():
            self.model.after_step(parts, self.gather, self.noise_seed(3, rank=0))

    def noise_seed(self, *purpose: int, rank: int | None = None) -> int:
        """Makes the seed of a step's random numbers, so that no generator has to be saved."""
        rank = self.fabric.global_rank if rank is None else rank
        return make_seed(self.args.seed, self.step, rank, *purpose)

    def mean(self, value: Tensor) -> float:
        """Computes the mean of a number over the ranks."""
        return float(cast(Tensor, self.fabric.all_reduce(value)))

    def gather(self, value: Tensor) -> Tensor:
        """Stacks a tensor over the ranks, in their order."""
        gathered = cast(Tensor, self.fabric.all_gather(value))
        return gathered if self.fabric.world_size > 1 else gathered[None]

    # --- validation -------------------------------------------------------------------------------

    def validate(
        self, show: ShowStep, interrupted: Callable[[], int]
    ) -> tuple[dict[str, float], Image | None] | None:
        """Scores the averaged model, saves it if it is the best so far, and draws a preview.

        Returns:
            What to log, empty on all ranks but the first; None if it was interrupted.
        """
        if not self.fabric.is_global_zero:
            return {}, None

        def progress(done: float) -> None:
            if interrupted():
                raise InterruptedError
            show(self.step, None, None, f"validating {done:.0%}")

        try:
            score = evaluate(
                self.ema, self.data.valid, limit=self.args.valid_images, progress=progress
            )
        except InterruptedError:
            return None
        self.stale += 1
        if score.bits_per_dim < self.best:
            self.best, self.stale = score.bits_per_dim, 0
            self.ema.save(self.out / "best")
        preview = draw_preview(self.ema, self.data)
        pictures.save_image(preview, self.out / "samples" / f"step-{self.step:07d}.png")
        kind = "" if self.model.is_likelihood else f", {self.model.scores}"
        show(self.step, None, None, f"step {self.step}: validation {score}{kind}")
        scores = {
            "valid": score.bits_per_dim,
            "valid_error": score.bits_per_dim_error,
            **diagnose(self.ema, self.data.valid),
        }
        return scores, preview

    @torch.no_grad()
    def check_weights(self) -> None:
        """Checks that the weights are finite, before they replace those saved earlier."""
        norm = float(nn.utils.get_total_norm(self.model.parameters()))
        if not math.isfinite(norm):
            raise DivergenceError(f"At step {self.step:,} the norm of the weights is {norm}")

    # --- the folder -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begins a run in its empty folder with a checkpoint, so that any step can be resumed."""
        if self.fabric.is_global_zero:
            self.write_config()
            (self.out / "metrics.jsonl").write_text("")
        self.save()

    def write_config(self) -> None:
        """Writes `config.yaml`."""
        write_config(self.out, self.model, self.data, self.args, self.settings)

    def save(self) -> None:
        """Saves a checkpoint to resume from, and the averaged model as `last/`."""
        if self.fabric.is_global_zero:
            self.ema.save(self.out / "last")
            state = {
                "model": self.model.state_dict(),
                "average": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "pending": self.pending,
                "best": self.best,
                "stale": self.stale,
                "setbacks": self.setbacks,
                "watch": self.watch.state(),
                "seconds": self.seconds,
                "codes_of": self.model.data_record.codes_of,
            }
            save_state(self.out / "state.pt", state)
        self.saved_step, self.saved_clock = self.step, self.clock
        self.fabric.barrier()

    def load(self) -> None:
        """Resumes from the last checkpoint."""
        seconds = self.load_checkpoint()
        self.started -= seconds
        self.clock = self.saved_clock = seconds
        if self.fabric.is_global_zero:
            self.write_config()
            slower = f" with train.lr x {0.5**self.setbacks:g}, after setbacks" * bool(
                self.setbacks
            )
            print(f"Resuming at step {self.step:,}{slower}.", file=sys.stderr)
        self.tidy_folder()

    def tidy_folder(self) -> None:
        """Drops metrics from after the checkpoint, and files that were left half written."""
        if self.fabric.is_global_zero:
            drop_later_metrics(self.out, self.step - (self.pending is not None))
            remove_parts(self.out)
        self.fabric.barrier()

    def load_checkpoint(self) -> float:
        """Restores weights, optimizer, step and scores from `state.pt`.

        Returns:
            The training time until then, in seconds.
        """
        path = self.out / "state.pt"
        state = load_state(path)
        try:
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best = state["step"], state["best"]
            # Checkpoints from before 0.2 have none of these.
            self.pending, self.stale = state.get("pending"), state.get("stale", 0)
            self.setbacks = state.get("setbacks", 0)
            self.watch.restore(state.get("watch", self.watch.state()))
            seconds: float = state.get("seconds", 0.0)
            codes_of = state.get("codes_of")
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            # Not the error's own text, which lists all weights.
            raise UserError(
                f"{path} is not a checkpoint of this model: resume it with the model, the levels, "
                "the classes, the orders, the task and the optimizer that the run was started with."
            ) from None
        if codes_of != self.model.data_record.codes_of:
            raise UserError(
                f"{self.out} was started on the codes of another model: the VQ-VAE may have been "
                "trained further since. Start a new run."
            )
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.args.weight_decay  # it may have been changed since
        self.saved_step = self.step
        return seconds

    @property
    def seconds(self) -> float:
        """Wall time of the run so far: steps, validations and checkpoints, without the pauses."""
        return time.perf_counter() - self.started
