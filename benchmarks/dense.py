"""Detectors and segmentors on a backbone of ours and on Swin-T: inference and training steps."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .registry import EAGER, MMDET_SWIN, DenseCase
from .task import Error, Task, Work, count_flops, network_limit, norm_error

if TYPE_CHECKING:
    from mmengine.config import Config

ROOT = Path(__file__).parents[1]
NEEDED = ("mmcv", "mmdet", "mmseg")
OBJECTS = 8  # in an image; COCO's mean is 7.3
CLASSES = 10  # of the truth: no more than the smallest head has


def missing_packages() -> str:
    """What would have to be installed; empty if all is."""
    names = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"needs {', '.join(names)}" if names else ""


class DenseProblem:
    """A model of mmdetection or mmsegmentation, and a batch of synthetic images with their truth.

    Results are checked up to the maps that the heads read: what heads do with them depends on
    random samples and on thresholds.
    """

    def __init__(self, case: DenseCase, device: torch.device):
        self.case = case
        self.device = device

    @cached_property
    def config(self) -> Config:
        from mmengine.config import Config

        return Config.fromfile(ROOT / self.case.config)

    @cached_property
    def model(self) -> Any:
        from mmengine.model import revert_sync_batchnorm
        from mmengine.registry import MODELS, DefaultScope

        cfg = copy.deepcopy(self.config.model)
        cfg.backbone.init_cfg = None
        if cfg.data_preprocessor.get("size"):
            cfg.data_preprocessor.size = self.case.size
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(self.config.default_scope):
            model = MODELS.build(cfg)
            if self.case.model != cfg.backbone.arch:
                model.backbone = swin(self.case.model, self.case.size)
        with _only_warnings():  # mmengine would list every parameter
            model.init_weights()
        if hasattr(model, "roi_head"):
            _spread_scores(model.roi_head.bbox_head.fc_cls)
        for module in model.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0  # a result that is checked cannot be random
        return revert_sync_batchnorm(model).to(self.device)

    @cached_property
    def compiled(self) -> Any:
        """The same model with a compiled backbone, whose kernels CUDA graphs launch."""
        model = copy.deepcopy(self.model)
        model.backbone.compile(dynamic=False, mode="reduce-overhead")
        return model

    def contender(self, mode: str) -> Any:
        return self.model if mode == EAGER else self.compiled

    def autocast(self, model: nn.Module) -> AbstractContextManager[None]:
        from visionssm.training import bfloat16_autocast

        return bfloat16_autocast(model) if self.case.dtype == torch.bfloat16 else nullcontext()

    @cached_property
    def batches(self) -> dict[bool, dict[str, Any]]:
        """Normalised images and samples on the device, by whether they are for training."""
        detects = self.config.default_scope == "mmdet"
        batch = (detection_batch if detects else segmentation_batch)(self.case)
        return {
            training: self.model.data_preprocessor(copy.deepcopy(batch), training)
            for training in (False, True)
        }

    def predict(self, mode: str) -> list[Any]:
        model = self.contender(mode)
        with self.autocast(model):
            return model(**self.batches[False], mode="predict")

    def training_step(self, mode: str) -> None:
        """Losses and their gradients, without an optimizer."""
        model = self.contender(mode)
        model.zero_grad()
        with self.autocast(model):
            losses = model(**self.batches[True], mode="loss")
            loss, _ = model.parse_losses(losses)
        loss.backward()

    def maps(self, mode: str) -> tuple[Tensor, ...]:
        model = self.contender(mode)
        with self.autocast(model):
            return tuple(model.extract_feat(self.batches[False]["inputs"]))

    @cached_property
    def exact(self) -> Any:
        """The model in float64."""
        return copy.deepcopy(self.model).double()

    @cached_property
    def true_maps(self) -> list[Tensor]:
        with torch.no_grad():
            levels = zip(*map(self._exact_maps, self._images), strict=True)
            return [torch.cat(maps) for maps in levels]

    @cached_property
    def true_gradients(self) -> list[Tensor]:
        """Of the product of the maps with `weights`, by each parameter that they depend on."""
        self.exact.train()
        for i, image in enumerate(self._images):
            weights = [weight[i : i + 1].double() for weight in self.weights]
            torch.autograd.backward(self._exact_maps(image), weights)
        return _gradients(self.exact)

    @property
    def _images(self) -> tuple[Tensor, ...]:
        """One at a time: float64 takes memory."""
        return self.batches[False]["inputs"].split(1)

    def _exact_maps(self, image: Tensor) -> list[Tensor]:
        return list(self.exact.extract_feat(image.double()))

    @cached_property
    def weights(self) -> list[Tensor]:
        generator = torch.Generator(self.device).manual_seed(0)
        return [
            torch.randn(m.shape, device=self.device, generator=generator) for m in self.true_maps
        ]

    def limit(self, passes: int) -> float:
        parameters = [*self.model.backbone.parameters()]
        if self.model.with_neck:
            parameters += self.model.neck.parameters()
        return network_limit(parameters, self.case.dtype, passes)

    def inference_errors(self, mode: str) -> dict[str, Error]:
        self.contender(mode).eval()
        with torch.no_grad():
            maps = self.maps(mode)
        return {"maps": Error(norm_error(maps, self.true_maps), self.limit(1))}

    def training_errors(self, mode: str) -> dict[str, Error]:
        model = self.contender(mode).train()
        model.zero_grad()
        maps = self.maps(mode)
        weights = [w.to(m.dtype) for m, w in zip(maps, self.weights, strict=True)]
        torch.autograd.backward(maps, weights)
        gradients = _gradients(model)
        model.zero_grad()
        return {"gradients": Error(norm_error(gradients, self.true_gradients), self.limit(2))}

    def prepare_inference(self, mode: str) -> Callable[[], list[Any]]:
        self.contender(mode).eval()
        return torch.no_grad()(partial(self.predict, mode))

    def prepare_training(self, mode: str) -> Callable[[], None]:
        self.contender(mode).train()
        return partial(self.training_step, mode)

    def inference_work(self) -> Work:
        return Work(flops=count_flops(self.prepare_inference(EAGER)))

    def training_work(self) -> Work:
        work = Work(flops=count_flops(self.prepare_training(EAGER)))
        self.model.zero_grad()
        return work


def swin(name: str, size: tuple[int, int]) -> nn.Module:
    """Swin-T in windows of 7 for images of that size: mmdetection's own, or timm's.

    timm's computes attention by PyTorch's fused kernels, mmdetection's does not.
    """
    if name == MMDET_SWIN:
        from mmdet.models import SwinTransformer

        return SwinTransformer(drop_path_rate=0.0)
    return TimmSwin(name, size)


class TimmSwin(nn.Module):
    """timm's Swin, read as our models are: a normalisation and an NCHW copy of each map."""

    def __init__(self, name: str, size: tuple[int, int]):
        super().__init__()
        padded = [-(-side // 32) * 32 for side in size]  # as mmdetection pads images
        self.model: Any = timm.create_model(
            name, features_only=True, img_size=padded, always_partition=True
        )
        self.norms = nn.ModuleList(map(nn.LayerNorm, self.model.feature_info.channels()))
        for module in self.model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            norm(m).permute(0, 3, 1, 2).contiguous()
            for norm, m in zip(self.norms, self.model(x), strict=True)
        )


@contextmanager
def _only_warnings() -> Iterator[None]:
    """Hold mmengine's logger back for a while; it is the process's, so it gets its level back."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("WARNING")
    try:
        yield
    finally:
        logger.setLevel(level)


def _spread_scores(classifier: nn.Linear) -> None:
    """Make regions certain of random classes, so that an image has as many instances as it may."""
    classifier.weight.data *= 1000


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _images(case: DenseCase, generator: torch.Generator) -> list[Tensor]:
    shape = (case.batch, 3, *case.size)
    return list(torch.randint(256, shape, generator=generator, dtype=torch.uint8))


def _metainfo(case: DenseCase) -> dict[str, Any]:
    return {
        "img_shape": case.size,
        "ori_shape": case.size,
        "scale_factor": (1.0, 1.0),
    }


def detection_batch(case: DenseCase) -> dict[str, Any]:
    """Noise with `OBJECTS` elliptic objects an image, as mmdetection's data loaders give it."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(0)
    height, width = case.size
    y, x = torch.arange(height)[:, None], torch.arange(width)
    samples = []
    for _ in range(case.batch):
        scale = torch.tensor([width, height])
        extent = (0.1 + 0.3 * torch.rand(OBJECTS, 2, generator=generator)) * scale
        corner = torch.rand(OBJECTS, 2, generator=generator) * (scale - extent)
        boxes = torch.cat([corner, corner + extent], dim=1)
        masks = [
            ((x - left) / (right - left) * 2 - 1) ** 2 + ((y - top) / (bottom - top) * 2 - 1) ** 2
            <= 1
            for left, top, right, bottom in boxes.tolist()
        ]
        sample = DetDataSample(metainfo=_metainfo(case))
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.randint(CLASSES, (OBJECTS,), generator=generator),
            masks=BitmapMasks(torch.stack(masks).numpy().astype(np.uint8), height, width),
        )
        samples.append(sample)
    return {"inputs": _images(case, generator), "data_samples": samples}


def segmentation_batch(case: DenseCase) -> dict[str, Any]:
    """Noise with a random class for each pixel, as mmsegmentation's data loaders give it."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(case.batch):
        sample = SegDataSample(metainfo=_metainfo(case))
        labels = torch.randint(CLASSES, (1, *case.size), generator=generator)
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return {"inputs": _images(case, generator), "data_samples": samples}


def dense_tasks(case: DenseCase, device: torch.device) -> Iterator[Task]:
    """Inference and training in every mode of the case."""
    problem = DenseProblem(case, device)
    height, width = case.size
    for mode in case.modes:
        task = partial(
            Task,
            case=f"{case.label}, {height} x {width}, batch {case.batch}",
            contender=case.model,
            mode=mode,
            dtype=case.dtype,
            images=case.batch,
            as_fast_as=case.as_fast_as,
            missing=missing_packages(),
        )
        yield task(
            quantity="inference",
            prepare=partial(problem.prepare_inference, mode),
            errors=partial(problem.inference_errors, mode),
            work=problem.inference_work,
        )
        yield task(
            quantity="training",
            prepare=partial(problem.prepare_training, mode),
            errors=partial(problem.training_errors, mode),
            work=problem.training_work,
        )
