"""Any solver as a scheduler of diffusers: for pipelines that know nothing of this library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from ...errors import ArgumentError, PlanError
from ...models import Prediction
from ..run_times import run_times
from ..solver import FixedGridSolver, LastStep
from .configuration import clean_transform, clean_transforms, named, restored, translated
from .generators import Generators, sample_ids
from .run import OutsideRun
from .schedule import Schedule, scheduled
from .spacing import asks_for_levels, trained_times
from .timetable import Timetable
from .training import Mixing, Training, check_flow_path, trained_prediction, training_of


@dataclass(init=False)
class DiffusersSchedulerOutput(BaseOutput):
    """What a step returns.

    Attributes:
        prev_sample: What to give the network next; after the last step the sample.
        pred_original_sample: The clean sample, after the last step of a run that ends there; before it None.

    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None

    def __init__(self, prev_sample: Tensor, pred_original_sample: Tensor | None = None) -> None:
        # What BaseOutput does after any initialisation, without a search for the fields, which takes as long as a step.
        vars(self).update(prev_sample=prev_sample, pred_original_sample=pred_original_sample)
        set_item = super(BaseOutput, self).__setitem__
        set_item("prev_sample", prev_sample)
        if pred_original_sample is not None:
            set_item("pred_original_sample", pred_original_sample)


class DiffusersScheduler(SchedulerMixin, ConfigMixin):
    """A solver in the place of a diffusers scheduler: unmodified pipelines then sample with it.

    ``pipeline.scheduler = DiffusersScheduler.from_config(pipeline.scheduler.config, solver="heun")`` keeps what the
    network was trained on, and the grid the pipeline had, and replaces the method. The state is that of the network's
    own path (``path="edm"``: x / alpha, as in k-diffusion), so ``add_noise``, ``init_noise_sigma`` and ``sigmas``
    speak of it. A step looks nothing up by value and reads nothing from the device.

    Solvers with several evaluations a step appear as a longer list of timesteps, ``order`` of them a step, as
    diffusers' own Heun does; those that start with extra evaluations cannot begin within the list (image to image).
    Noise is ours (Philox), keyed as :func:`~pushforward.solvers.interop.sample_ids` says. A tensor that a step returns
    is never written to again; one that the pipeline changes, or replaces, is where the run goes on.

    Args:
        solver: A registered solver, or one as an object (then without ``solver_options``). A fitted plan brings its own
            grid, and the configuration holds all of it; the guidance is the pipeline's.
        solver_options: Its options.
        path: None or "edm": where the solver works. Heun in the noise level, as diffusers' HeunDiscreteScheduler, is
            "heun" on "edm". Not for flow matching.
        last_step: See :func:`pushforward.solvers.plan`.
        grid, grid_options: A registered grid instead of diffusers' spacing.
        training: "ddpm", "flow", "edm" or "ve"; by default what the other keys say.
        timestep_convention: "indices", "levels" or "dropped_last": how the family of schedulers that the pipeline had
            reads ``timestep_spacing``; set by :meth:`from_config`.
        num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr,
            prediction_type: As in diffusers: the training.
        timestep_spacing, steps_offset, final_sigmas_type, use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas:
            As in diffusers: the grid.
        clip_sample, clip_sample_range, thresholding, dynamic_thresholding_ratio, sample_max_value: As in diffusers:
            what happens to every clean estimate; the noise estimate follows from the result.
        shift, use_dynamic_shifting, base_shift, max_shift, base_image_seq_len, max_image_seq_len, time_shift_type,
            shift_terminal, invert_sigmas: As in diffusers: flow matching.
        sigma_min, sigma_max, sigma_data, rho, sigma_schedule: As in diffusers: EDM.

    Raises:
        UnknownNameError, ArgumentError: No such solver, option, path or training; says which there are.

    Example:
        >>> scheduler = DiffusersScheduler("heun", training="flow", shift=3.0)
        >>> scheduler.set_timesteps(2)
        >>> x = torch.ones(1, 4)
        >>> for t in scheduler.timesteps:
        ...     x = scheduler.step(-x, t, x).prev_sample
        >>> len(scheduler.timesteps), scheduler.order
        (4, 2)

    """

    order: int = 1

    @register_to_config
    def __init__(
        self,
        solver: str | FixedGridSolver = "ddim",
        solver_options: dict[str, Any] | None = None,
        path: Literal["edm"] | None = None,
        last_step: LastStep = "auto",
        grid: str | None = None,
        grid_options: dict[str, Any] | None = None,
        training: Training | None = None,
        timestep_convention: str = "indices",
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str | None = "linear",
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        final_sigmas_type: str = "zero",
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: float = 0.5,
        max_shift: float = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        time_shift_type: str = "exponential",
        shift_terminal: float | None = None,
        invert_sigmas: bool = False,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        sigma_data: float = 0.5,
        rho: float = 7.0,
        sigma_schedule: str = "karras",
    ) -> None:
        if isinstance(solver, FixedGridSolver):
            solver, solver_options = named(solver, solver_options)
            self.register_to_config(solver=solver, solver_options=solver_options)
        self._solver = restored(solver, solver_options)
        self._training = training or training_of(self.config)
        self.register_to_config(training=self._training)
        check_flow_path(self._training, path)
        self._mixing = Mixing(self._trained)
        self.num_inference_steps: int | None = None
        self.timesteps: Tensor | None = None
        self.sigmas: Tensor | None = None
        self._schedule: Schedule | None = None
        self._asked: tuple[object, ...] | None = None
        self._timetable = Timetable(torch.empty(0), ())
        self._begin: int | None = None
        self._run: OutsideRun | None = None
        self.order = self._solver.evaluations_per_step

    # --- configuration -----------------------------------------------------------------------------------------

    @classmethod
    def from_config(  # type: ignore[override]  # theirs also takes a folder's name, which is deprecated
        cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any
    ) -> Any:
        """A scheduler from another's configuration, of diffusers or of this class.

        Args:
            config: A ``config``, the contents of scheduler_config.json, or a scheduler itself (its ``config`` does not
                name its class, which decides how ``timestep_spacing`` is read; after a download or ``save_config`` it
                does).
            return_unused_kwargs: Return also the arguments that this class does not have.
            **kwargs: Arguments of this class that replace those of the configuration: ``solver="heun"``.

        """
        name = "" if isinstance(config, Mapping) else type(config).__name__
        config = getattr(config, "config", config)
        if not isinstance(config, Mapping):
            raise ArgumentError("config", got=type(config).__name__, expected="a scheduler or its config")
        name = str(config.get("_class_name") or name)
        # diffusers would leave out the values which its class has by default, to take ours instead.
        values = {key: value for key, value in config.items() if key != "_use_default_values"}
        if "solver" in kwargs and kwargs["solver"] != values.get("solver"):
            values.pop("solver_options", None)  # another solver's
        if name != cls.__name__ and "training" not in config:
            values = translated(values, name) | {"_class_name": name or cls.__name__}
        return super().from_config(values, return_unused_kwargs, **kwargs)

    @property
    def _trained(self) -> Prediction:
        """How the network is read on its own path."""
        return trained_prediction(self.config, self._training)

    # --- the grid ----------------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Plan a run.

        Args:
            num_inference_steps: Steps; of several evaluations each if the solver has as many. A fitted plan knows its
                own.
            device: Where the timesteps are put.
            timesteps: The network's own times of the steps, decreasing, instead.
            sigmas: Noise levels of the steps, decreasing, instead; a last 0 may be left out. Of flow networks 1 - t,
                which are shifted as configured, as in diffusers. To a fitted plan the uniform levels that pipelines
                pass by themselves say no more than a number of steps.
            mu: Of dynamic shifting.

        Raises:
            ArgumentError, GridError: Values that are no grid, or contradict each other.

        """
        for name, given in (("timesteps", timesteps), ("sigmas", sigmas)):
            if isinstance(given, Tensor):
                raise ArgumentError(name, got="a tensor", expected="numbers on the host", hint=f"{name}.tolist()")
        if timesteps is not None and sigmas is not None:
            timesteps = None  # as in diffusers' flow scheduler: the levels decide, the times follow from them
        own = None if timesteps is None else tuple(timesteps), None if sigmas is None else tuple(sigmas)
        asked = (self.config, num_inference_steps, device, own, mu)  # a changed configuration is another object
        if self._asked is None or self._asked[0] is not asked[0] or self._asked[1:] != asked[1:]:
            self._schedule = schedule = self._plan(num_inference_steps, *own, mu)
            self._timetable = Timetable(schedule.tensor(self._training == "ddpm", device), schedule.times)
            self.sigmas = torch.tensor(schedule.levels, dtype=torch.float32)
            self.num_inference_steps = schedule.plan.steps
            self._asked = asked
        self.timesteps = self._timetable.entries
        self._begin = self._run = None

    def _plan(
        self,
        steps: int | None,
        timesteps: tuple[float, ...] | None,
        sigmas: tuple[float, ...] | None,
        mu: float | None,
    ) -> Schedule:
        config, trained = self.config, self._trained
        own = self._solver.times_on(trained.interpolant) is not None
        if own and config["grid"] is None and timesteps is None and not asks_for_levels(sigmas, self._training):
            steps = steps if sigmas is None else len(sigmas)
            times = run_times(self._solver, None, steps, trained.interpolant)
        else:
            times = trained_times(config, trained, self._training, steps, timesteps=timesteps, sigmas=sigmas, mu=mu)
        return scheduled(self._solver, times, trained, config["path"], clean_transform(config), config["last_step"])

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run at this entry of ``timesteps`` (image to image)."""
        self._begin, self._run = begin_index, None

    @property
    def begin_index(self) -> int | None:
        """What :meth:`set_begin_index` said."""
        return self._begin

    @property
    def step_index(self) -> int | None:
        """The entry of ``timesteps`` whose output comes next; None before the run's first step."""
        return None if self._run is None else self._run.entry

    def set_shift(self, shift: float) -> None:
        """Another static shift, from the next ``set_timesteps`` on."""
        self.register_to_config(shift=shift)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    # --- the run -----------------------------------------------------------------------------------------------

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> DiffusersSchedulerOutput | tuple[Tensor, Tensor | None]:
        """Take the network's output at ``sample``; say where to ask it next.

        Args:
            model_output: [B, *D], or [B, 2 C, ...] of a network that returns a variance too, which is dropped.
            timestep: The entry of ``timesteps``. An element of that tensor, or a number, is recognised (without
                reading it); then a run can also begin, or jump, in the middle. Others count as the next in turn.
            sample: The network's input before ``scale_model_input``.
            generator: Of the noise of solvers that draw any; see
                :func:`~pushforward.solvers.interop.sample_ids`. Looked at by the first step of a run.
            return_dict: False for a tuple.

        Raises:
            PlanError: ``set_timesteps`` was not called.
            ArgumentError: A run of this solver cannot begin at this timestep.
            ShapeError: An output that does not fit the sample.

        """
        run = self._run
        if run is None or not isinstance(timestep, Tensor) or timestep.data_ptr() != run.timetable.addresses[run.entry]:
            run = self._run_at(timestep, sample, generator)
        # Asked here, since one more function in between would be a fiftieth of the step.
        quick = run.program.quick[run.entry - run.begin]
        if quick is not None and (state := quick(run.values, sample, model_output)) is not None:
            run.entry += 1
        else:
            state = run.advance(model_output, sample)
        clean = state if run.entry == run.end and self._planned("step").ends_clean else None
        return DiffusersSchedulerOutput(state, clean) if return_dict else (state, clean)

    def _run_at(self, timestep: float | Tensor, sample: Tensor, generator: Generators) -> OutsideRun:
        """The run that waits for the output at this timestep: the one under way, or a new one."""
        schedule, run = self._planned("step"), self._run
        index = self._timetable.index(timestep, None if run is None else run.entry)
        if run is None or run.entry == run.end or index not in (None, run.entry):
            begin = (self._begin or 0) if index is None else index
            program = schedule.begun_at(begin)
            samples = sample_ids(generator, sample.shape[0], sample.device) if program.stochastic else None
            self._run = run = OutsideRun(
                program, sample, self._timetable, begin, samples, clean_transforms(self.config)
            )
        return run

    def _planned(self, name: str) -> Schedule:
        if self._schedule is None:
            raise PlanError(name, got="a call before set_timesteps", expected="set_timesteps(...) first")
        return self._schedule

    # --- scales ------------------------------------------------------------------------------------------------

    @property
    def init_noise_sigma(self) -> float:
        """What standard normal noise is multiplied by to start a run.

        1 for networks of diffusion and flow matching (as in training; x / alpha on the path "edm"), the largest noise
        level for EDM's.
        """
        schedule = self._schedule
        if self._training in ("edm", "ve"):
            if schedule is None:
                return float(self.config["sigma_max"])
            return schedule.prediction.interpolant.noise_ratio(schedule.plan.grid[0])
        return 1 / schedule.first_scale if schedule is not None else 1.0

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """The network's input: the sample times a number that depends on the timestep (1 on the network's own path)."""
        schedule = self._schedule
        if schedule is None or (scalings := schedule.scalings) is None:
            return sample
        run = self._run
        waiting = None if run is None or run.entry == run.end else run.entry
        index = None if timestep is None else self._timetable.index(timestep, waiting)
        if index is None:
            index = (self._begin or 0) if waiting is None else waiting
        scaling = scalings[index]
        return sample if scaling is None else scaling(sample)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha x_1 + sigma x_0`` at the network's times ``timesteps`` ([B] or one), in the coordinates of a run."""
        alpha, sigma = self._at(original_samples, timesteps)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: float | Tensor, noise: Tensor | None = None) -> Tensor:
        """As :meth:`add_noise`, under the name that flow-matching pipelines call."""
        if noise is None:
            raise ArgumentError("noise", got=None, expected="a tensor like the sample")
        return self.add_noise(sample, noise, torch.as_tensor(timestep))

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """``alpha x_0 - sigma x_1``, the target of networks with ``prediction_type="v_prediction"``."""
        alpha, sigma = self._mixing(timesteps.to(sample.device))
        shape = (-1, *[1] * (sample.ndim - 1))
        return (alpha.reshape(shape) * noise - sigma.reshape(shape) * sample).to(sample.dtype)

    def _at(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma of the state, shaped to multiply ``like``."""
        alpha, sigma = self._mixing(timesteps.to(like.device))
        if self.config["path"] == "edm" and self._training == "ddpm":
            alpha, sigma = torch.ones_like(alpha), sigma / alpha
        shape = (-1, *[1] * (like.ndim - 1))
        return alpha.reshape(shape), sigma.reshape(shape)
