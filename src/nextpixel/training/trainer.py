"""Trains models in one linear loop, which can be killed at any step and resumed exactly.

    nextpixel train --config recipes/mnist/mnist-gated.yaml --out runs/mine
    nextpixel train --resume runs/mine
    torchrun --nproc-per-node 2 -m nextpixel train --config RECIPE.yaml --out runs/mine

A run folder holds `config.yaml` (the resolved configuration), `metrics.jsonl`, `tensorboard/`,
`samples/` (previews), the models `best/` and `last/` (both with averaged weights), and `state.pt`,
the checkpoint to resume from.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn

from nextpixel import data as npx_data
from nextpixel.conditioning.conditioner import CoarseCodes
from nextpixel.context import ContextSpec
from nextpixel.data import Dataset
from nextpixel.errors import UserError
from nextpixel.evaluation.likelihood import diagnose, evaluate
from nextpixel.latents.codes import load_data
from nextpixel.models.base.image_model import Conditioning, ImageModel
from nextpixel.nn import checkpointing
from nextpixel.noise import make_seed, seeded
from nextpixel.saving import model_name
from nextpixel.training.checkpoint import load_state, save_state
from nextpixel.training.config import TrainArgs, learning_rate
from nextpixel.training.launch import interrupts, launched, make_fabric
from nextpixel.training.logs import ShowStep, is_logged, metrics_log, progress_bar
from nextpixel.training.previews import draw_preview
from nextpixel.utils.files import remove_parts, replace_file
from nextpixel.viz import images as pictures

__all__ = ["Run", "fit", "update_average"]


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


def fit(
    model: ImageModel,
    data: str | Dataset,
    *,
    out: str | Path,
    resume: bool = False,
    data_dir: str | Path | None = None,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Trains a model by maximum likelihood, and saves the best and the last one.

    The best model has the lowest negative log-likelihood on the validation split.

    Args:
        model: The model; trained in place, and in evaluation mode afterwards (dropout is off).
        data: A data set, or its name for `nextpixel.load_data`.
        out: The run folder.
        resume: Resume the run from the folder's last checkpoint.
        data_dir: Where to look for data first.
        device: "auto", "cpu", "cuda" or "cuda:N".
        settings: Other options of the command line to save in `config.yaml`, which resuming there
            needs again (where the data came from, the number of threads).
        options: Fields of `TrainArgs`.

    Returns:
        The run folder.

    Raises:
        UserError: The data do not fit the model, the folder holds another run, the loss is not
            finite, or there is nothing to resume.
        KeyboardInterrupt: Ctrl-C was pressed; a checkpoint is saved first.
    """
    try:
        args = TrainArgs(**options)
    except TypeError as error:
        raise UserError(f"A training option is unknown or of the wrong type: {error}.") from None
    if isinstance(data, str):
        source = {"data": data} if data_dir is None else {"data": data, "data_dir": str(data_dir)}
        settings = {**source, **(settings or {})}
        data = load_data(data, levels=model.levels, data_dir=data_dir)
    data = prepare(model, data, args)
    out = Path(out)
    if (out / "state.pt").exists() and not resume:
        raise UserError(
            f"{out} already holds a run: resume it with --resume {out}, or name another folder."
        )
    fabric = make_fabric(device, args.precision)
    with launched(fabric), interrupts() as interrupted:
        Run(fabric, model, data, args, out, settings or {}).train(resume, interrupted)
    model.eval()
    return out


def prepare(model: ImageModel, data: Dataset, args: TrainArgs) -> Dataset:
    """Checks that model, data and options fit, and records the data set in the model.

    Returns:
        The data to train on.

    Raises:
        UserError: They do not fit.
    """
    if data.coarse_codes is not None and model.conditioner is None:
        model.conditioner = CoarseCodes()
    model.check_dataset(data)
    record = data.record
    model.data_record = record if model.classes is not None else replace(record, class_names=None)
    if args.drop_context and not model.context_spec.parts:
        raise UserError(
            "train.drop_context drops contexts, but this model is unconditional: leave it out."
        )
    if args.mutate:
        data.train.refuse_padding("Training with train.mutate")
        data = replace(data, train=replace(data.train, mutation_rate=args.mutate))
    return data


class Run:
    """Holds a run's model, the moving average of its weights, its optimizer and its folder.

    Attributes:
        model: The model that is trained.
        wrapped: The same model as Fabric wraps it; training calls this one.
        ema: A copy of the model with averaged weights, which is scored and saved.
        step: Steps done.
        saved_step: The step of the last checkpoint.
        best: The lowest validation score so far, in bits/dim.
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
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            lr=args.lr,
            weight_decay=args.weight_decay,
            fused=True,
        )
        self.wrapped, self.optimizer = fabric.setup(model, optimizer)
        self.wrapped.mark_forward_method("objective")
        self.step = self.saved_step = 0
        self.best = math.inf
        self.started = time.perf_counter()  # moved back on resuming, by the time spent before

    # --- the loop ---------------------------------------------------------------------------------

    def train(self, resume: bool, interrupted: Callable[[], bool]) -> None:
        """Trains to the last step, or to the end of the step in which it is interrupted."""
        if resume:
            self.load()
        else:
            self.begin()
        args, main_process = self.args, self.fabric.is_global_zero
        with (
            metrics_log(self.out, self.step, main_process) as log,
            progress_bar(self.step, args.steps, main_process) as show,
        ):
            while self.step < args.steps:
                began = time.perf_counter()
                metrics = self.train_step()
                self.step += 1
                speed = args.batch_size * self.fabric.world_size / (time.perf_counter() - began)
                metrics["images_per_second"] = round(speed, 1)
                show(self.step, metrics["loss"], speed)

                last = self.step == args.steps
                # The signal may reach one rank only, and all must stop at the same step.
                stop = self.mean(torch.tensor(float(interrupted()))) > 0
                validate = self.step % args.valid_every == 0 or last
                save = self.step % args.save_every == 0 or last or stop
                if validate or save:
                    self.check_weights()
                if validate:
                    metrics |= self.validate(show)
                log({"step": self.step, **metrics, "seconds": round(self.seconds, 2)})
                if save:
                    self.save()
                if stop and not last:
                    raise KeyboardInterrupt

    # --- a step -----------------------------------------------------------------------------------

    def train_step(self) -> dict[str, float]:
        """Takes an optimizer step; changes nothing where the loss or the gradient is not finite."""
        x, conditioning = self.batch()
        rate = self.set_learning_rate()
        torch.manual_seed(self.noise_seed())
        loss = self.mean(self.backward(x, conditioning))
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.args.clip))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise self.not_finite(
                self.step + 1, f"the loss is {loss} and the gradient's norm {norm}"
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
        return x.to(self.fabric.device), conditioning

    def set_learning_rate(self) -> float:
        """Sets the learning rate of the next step, and returns it."""
        rate = learning_rate(self.step + 1, self.args)
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
        """Computes the mean loss of images, in nats an image."""
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

    def validate(self, show: ShowStep) -> dict[str, float]:
        """Scores the averaged model, saves it if it is the best so far, and draws a preview."""
        if not self.fabric.is_global_zero:
            return {}
        score = evaluate(
            self.ema,
            self.data.valid,
            limit=self.args.valid_images,
            progress=lambda done: show(self.step, None, None, f"validating {done:.0%}"),
        )
        if score.bits_per_dim < self.best:
            self.best = score.bits_per_dim
            self.ema.save(self.out / "best")
        preview = draw_preview(self.ema, self.data)
        pictures.save_image(preview, self.out / "samples" / f"step-{self.step:07d}.png")
        kind = "" if self.model.is_likelihood else f", {self.model.scores}"
        show(self.step, None, None, f"step {self.step}: validation {score}{kind}")
        return {
            "valid": score.bits_per_dim,
            "valid_error": score.bits_per_dim_error,
            **diagnose(self.ema, self.data.valid),
        }

    @torch.no_grad()
    def check_weights(self) -> None:
        """Checks that the weights are finite, before they replace those saved earlier."""
        norm = float(nn.utils.get_total_norm(self.model.parameters()))
        if not math.isfinite(norm):
            raise self.not_finite(self.step, f"the norm of the weights is {norm}")

    def not_finite(self, step: int, reason: str) -> UserError:
        """Makes the error for numbers that are not finite."""
        return UserError(
            f"At step {step} {reason}: training stops. The checkpoint of step {self.saved_step} in "
            f"{self.out} is intact: resume it with a lower train.lr."
        )

    # --- the folder -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Makes a new run folder with a first checkpoint, so that any step can be resumed."""
        if self.fabric.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            self.write_config()
            (self.out / "metrics.jsonl").write_text("")
        self.save()

    def write_config(self) -> None:
        """Writes `config.yaml`, which `nextpixel train --config` can read."""
        decided_by_data = {"shape", "levels", *ContextSpec._fields}
        hyperparameters = {
            name: value
            for name, value in self.model.hyperparameters.items()
            if name not in decided_by_data
        }
        config = {
            "model": {"class_path": model_name(type(self.model)), "init_args": hyperparameters},
            "data": self.data.name,
            "levels": self.data.levels,
            "conditional": self.model.classes is not None,
            **self.task_options(),
            **self.settings,
            "train": asdict(self.args),
        }
        text = yaml.safe_dump(config, sort_keys=False)
        replace_file(self.out / "config.yaml", text.encode())

    def task_options(self) -> dict[str, Any]:
        """Returns the options of the restoration task that the model is trained for, if any."""
        conditioner = self.model.conditioner
        if conditioner is None or conditioner.role != "restore":
            return {}
        options = conditioner.settings()
        return {"task": options.pop("name"), **options}

    def save(self) -> None:
        """Saves a checkpoint to resume from, and the averaged model as `last/`."""
        if self.fabric.is_global_zero:
            self.ema.save(self.out / "last")
            state = {
                "model": self.model.state_dict(),
                "average": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "best": self.best,
                "seconds": self.seconds,
                "codes_of": self.model.data_record.codes_of,
            }
            save_state(self.out / "state.pt", state)
        self.saved_step = self.step
        self.fabric.barrier()

    def load(self) -> None:
        """Restores the last checkpoint, and drops metrics that were logged after it."""
        self.load_checkpoint()
        self.saved_step = self.step
        if self.fabric.is_global_zero:
            self.write_config()
            self.drop_later_metrics()
            remove_parts(self.out)
        self.fabric.barrier()

    def load_checkpoint(self) -> None:
        """Restores weights, optimizer, step and best score from `state.pt`."""
        path = self.out / "state.pt"
        state = load_state(path)
        try:
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best = state["step"], state["best"]
            self.started -= state.get("seconds", 0.0)
            codes_of = state.get("codes_of")
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path} is not a checkpoint of this model: resume it with the model that the run "
                f"was started with ({reason})."
            ) from None
        if codes_of != self.model.data_record.codes_of:
            raise UserError(
                f"{self.out} was started on the codes of another model: the VQ-VAE may have been "
                "trained further since. Start a new run."
            )
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.args.weight_decay  # it may have been changed since

    def drop_later_metrics(self) -> None:
        """Drops lines of `metrics.jsonl` from after the checkpoint, and incomplete ones."""
        path = self.out / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        replace_file(path, b"".join(line for line in lines if is_logged(line, self.step)))

    @property
    def seconds(self) -> float:
        """Wall time of the run so far: steps, validations and checkpoints, without the pauses."""
        return time.perf_counter() - self.started
