"""The trainer: one linear loop that can be killed at any step and goes on exactly.

    nextpixel train --config recipes/mnist/mnist-gated.yaml --out runs/mine
    nextpixel train --resume runs/mine
    torchrun --nproc-per-node 2 -m nextpixel train --config RECIPE.yaml --out runs/mine

A run folder holds `config.yaml` (the resolved configuration), `metrics.jsonl`, `tensorboard/`,
`samples/`, the models `best/` and `last/` (both with averaged weights) and `state.pt` to resume.
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
from nextpixel.training.logs import ShowStep, complete_line_until, metrics_log, progress_bar
from nextpixel.training.previews import draw_preview
from nextpixel.utils.files import remove_parts, replace_file
from nextpixel.viz import images as pictures

__all__ = ["Run", "fit", "update_average"]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Moves the averaged weights towards the model's (they start quicker than `decay` says)."""
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
    """Trains a model by maximum likelihood and keeps the best and the last one.

    The best is the one with the lowest negative log-likelihood on the validation split.

    Args:
        model: The model; trained in place, and in evaluation mode afterwards (dropout is off).
        data: A data set, or its name for `data.load`.
        out: The run folder.
        resume: Go on from the folder's last checkpoint.
        data_dir: Where to look for data first.
        device: "auto", "cpu", "cuda" or "cuda:N".
        settings: What else to keep in `config.yaml`: other options of the command line, which it
            needs again to go on (where the data came from, the number of threads).
        options: Fields of `TrainArgs`.

    Returns:
        The run folder.

    Raises:
        UserError: The data do not fit the model, the folder holds another run, the loss is no
            longer a number, or there is nothing to resume.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was saved.
    """
    try:
        args = TrainArgs(**options)
    except TypeError as error:
        raise UserError(f"A training option is unknown or of the wrong type: {error}.") from None
    if isinstance(data, str):
        where = {} if data_dir is None else {"data_dir": str(data_dir)}
        settings = {"data": data, **where, **(settings or {})}
        data = load_data(data, levels=model.levels, data_dir=data_dir)
    if data.coarse_codes is not None and model.conditioner is None:
        model.conditioner = CoarseCodes()
    model.check_dataset(data)
    model.data_record = (
        data.record if model.classes is not None else replace(data.record, class_names=None)
    )
    if args.drop_context and not model.context_spec.parts:
        raise UserError("train.drop_context drops contexts, but this model is unconditional.")
    if args.mutate:
        data.train.refuse_padding("Training with train.mutate")
        data = replace(data, train=replace(data.train, mutation_rate=args.mutate))
    out = Path(out)
    if (out / "state.pt").exists() and not resume:
        raise UserError(
            f"{out} already holds a run: go on with it by --resume {out}, or name another folder."
        )
    fabric = make_fabric(device, args.precision)
    with launched(fabric), interrupts() as interrupted:
        Run(fabric, model, data, args, out, settings or {}).train(resume, interrupted)
    model.eval()
    return out


class Run:
    """A training run: the model, its average, its optimizer, and the folder they are kept in."""

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
        # The mean, and not that of a batch: all nats count alike, so that the loss is, on average,
        # the bits/dim of all training images together.
        self.sites = float(data.train.sites().mean())
        self.out, self.settings = out, settings
        model = model.train()
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of torch
        self.average = copy.deepcopy(model).to(fabric.device).eval().requires_grad_(False)
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            learned, lr=args.lr, weight_decay=args.weight_decay, fused=True
        )
        self.raw = model
        self.model, self.optimizer = fabric.setup(model, optimizer)
        self.model.mark_forward_method("objective")
        self.step = self.saved_step = 0
        self.best = math.inf  # validation bits/dim
        self.began = time.perf_counter()  # moved back by the time spent before resuming

    @property
    def seconds(self) -> float:
        """Wall time of the run so far: steps, validation and saving, without the pauses."""
        return time.perf_counter() - self.began

    def begin(self) -> None:
        """Makes a new run folder, with a first checkpoint: a run can be killed at any step."""
        if self.fabric.is_global_zero:
            self.out.mkdir(parents=True, exist_ok=True)
            self.write_config()
            (self.out / "metrics.jsonl").write_text("")
        self.save()

    def write_config(self) -> None:
        """Writes `config.yaml`, which `nextpixel train --config` can read."""
        hyperparameters = dict(self.raw.hyperparameters)
        for given_by_data in ("shape", "levels", *ContextSpec._fields):
            hyperparameters.pop(given_by_data, None)  # a model may not have classes
        conditioner, task = self.raw.conditioner, {}
        if conditioner is not None and conditioner.role == "restore":
            settings = conditioner.settings()
            task = {"task": settings.pop("name"), **settings}
        config = {
            "model": {"class_path": model_name(type(self.raw)), "init_args": hyperparameters},
            "data": self.data.name,
            "levels": self.data.levels,
            "conditional": self.raw.classes is not None,
            **task,
            **self.settings,
            "train": asdict(self.args),
        }
        text = yaml.safe_dump(config, sort_keys=False)
        replace_file(self.out / "config.yaml", text.encode())

    def load(self) -> None:
        """Takes the state of the last checkpoint, and forgets metrics written after it."""
        path = self.out / "state.pt"
        state = load_state(path)
        try:
            self.raw.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best = state["step"], state["best"]
            self.began -= state.get("seconds", 0.0)
            codes_of = state.get("codes_of")
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{path} is not the state of such a run: resume it with the model it was begun "
                f"with ({reason})."
            ) from None
        if codes_of != self.raw.data_record.codes_of:
            raise UserError(
                f"The codes that {self.out} was begun with were of another model: was the VQ-VAE "
                "trained further? Begin a new run."
            )
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.args.weight_decay  # of now, not of when it was saved
        self.saved_step = self.step
        if self.fabric.is_global_zero:
            self.write_config()
            metrics = self.out / "metrics.jsonl"
            lines = metrics.read_bytes().splitlines(keepends=True) if metrics.exists() else []
            kept = [line for line in lines if complete_line_until(line, self.step)]
            replace_file(metrics, b"".join(kept))
            remove_parts(self.out)
        self.fabric.barrier()

    def save(self) -> None:
        """Saves the state to resume from, and the averaged model as `last/`."""
        if self.fabric.is_global_zero:
            self.average.save(self.out / "last")
            state = {
                "model": self.raw.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "best": self.best,
                "seconds": self.seconds,
                "codes_of": self.raw.data_record.codes_of,
            }
            save_state(self.out / "state.pt", state)
        self.saved_step = self.step
        self.fabric.barrier()

    def train(self, resume: bool, interrupted: Callable[[], bool]) -> None:
        """Trains to the last step, or to the one in which it is interrupted."""
        args = self.args
        if resume:
            self.load()
        else:
            self.begin()
        with (
            metrics_log(self.out, self.step, self.fabric.is_global_zero) as log,
            progress_bar(self.step, args.steps, self.fabric.is_global_zero) as show,
        ):
            while self.step < args.steps:
                began = time.perf_counter()
                metrics = self.train_step()
                self.step += 1
                speed = args.batch_size * self.fabric.world_size / (time.perf_counter() - began)
                metrics["images_per_second"] = round(speed, 1)
                show(self.step, metrics["loss"], speed)
                last = self.step == args.steps
                # All ranks must agree, and the signal may have come to one of them only.
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

    def train_step(self) -> dict[str, float]:
        """Takes one optimizer step, but changes nothing if loss or gradient are not finite."""
        args, step = self.args, self.step + 1
        x, given = self.batch()
        torch.manual_seed(self.noise_seed())
        rate = learning_rate(step, args)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self.backward(x, given)
        norm = nn.utils.clip_grad_norm_(self.raw.parameters(), args.clip)
        bits = self.mean(loss)
        if not math.isfinite(bits) or not math.isfinite(norm):
            raise self.broken(step, f"the loss is {bits} and the gradient's norm {float(norm)}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad(), self.fabric.autocast():
            splits = torch.arange(len(x)).tensor_split(args.accumulate)
            parts = [(x[images], given[images].mask) for images in splits]
            self.raw.after_step(parts, self.gather, self.noise_seed(3, rank=0))
        update_average(self.average, self.raw, step, args.ema)
        return {"loss": bits, "lr": rate, "grad_norm": float(norm)}

    def backward(self, x: Tensor, given: Conditioning) -> Tensor:
        """Adds the gradient of a batch, part by part, and returns its loss in bits/dim."""
        parts = self.args.accumulate
        losses = []
        for i, images in enumerate(torch.arange(len(x)).tensor_split(parts)):
            part, of_part = x[images], given[images]
            with self.fabric.no_backward_sync(self.model, enabled=i < parts - 1):
                # Fabric itself wraps `forward` in autocast, but no other method.
                with self.fabric.autocast(), checkpointing(self.args.checkpoint_activations):
                    nats = -self.model.objective(part, of_part.context, of_part.mask).mean()
                nats = nats * (len(part) / len(x))
                loss = nats / (self.sites * math.log(2))
                self.fabric.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def mean(self, value: Tensor) -> float:
        """Computes the mean of a number over the ranks."""
        return float(cast(Tensor, self.fabric.all_reduce(value)))

    def gather(self, value: Tensor) -> Tensor:
        """Stacks a tensor over the ranks, in their order."""
        gathered = cast(Tensor, self.fabric.all_gather(value))
        return gathered if self.fabric.world_size > 1 else gathered[None]

    @torch.no_grad()
    def check_weights(self) -> None:
        """Checks that the weights are finite, before they take the place of those saved before."""
        norm = float(nn.utils.get_total_norm(self.raw.parameters()))
        if not math.isfinite(norm):
            raise self.broken(self.step, f"the norm of the weights is {norm}")

    def broken(self, step: int, what: str) -> UserError:
        """Makes the error for numbers that are no longer finite."""
        return UserError(
            f"At step {step} {what}: training stops. The checkpoint of step {self.saved_step} in "
            f"{self.out} is intact: resume it with a lower train.lr."
        )

    def noise_seed(self, *what: int, rank: int | None = None) -> int:
        """Makes the seed of what is random in a step, so that no generator has to be saved."""
        rank = self.fabric.global_rank if rank is None else rank
        return make_seed(self.args.seed, self.step, rank, *what)

    def batch(self) -> tuple[Tensor, Conditioning]:
        """Gets the images of the next step: a function of the seed and the step alone."""
        args, images = self.args, self.data.train
        rank, world = self.fabric.global_rank, self.fabric.world_size
        indices = npx_data.batch_indices(
            len(images), args.batch_size, self.step, seed=args.seed, rank=rank, world=world
        )
        key = (args.seed, self.step * world + rank)
        x, given = self.raw.inputs(images, indices, self.noise_seed(2) >> 1, key)
        if given.context is not None and args.drop_context:
            random = seeded(self.noise_seed(1)).random(len(x))
            null = given.context.null(torch.from_numpy(random < args.drop_context))
            given = replace(given, context=null)
        return x.to(self.fabric.device), given

    def validate(self, show: ShowStep) -> dict[str, float]:
        """Scores the averaged model, keeps it if it is the best, and draws a grid of samples."""
        if not self.fabric.is_global_zero:
            return {}
        score = evaluate(
            self.average,
            self.data.valid,
            limit=self.args.valid_images,
            progress=lambda done: show(self.step, None, None, f"validating {done:.0%}"),
        )
        if score.bits_per_dim < self.best:
            self.best = score.bits_per_dim
            self.average.save(self.out / "best")
        picture = draw_preview(self.average, self.data)
        pictures.save_image(picture, self.out / "samples" / f"step-{self.step:07d}.png")
        what = "" if self.raw.is_likelihood else f", {self.raw.scores}"
        show(self.step, None, None, f"step {self.step}: validation {score}{what}")
        return {
            "valid": score.bits_per_dim,
            "valid_error": score.bits_per_dim_error,
            **diagnose(self.average, self.data.valid),
        }
