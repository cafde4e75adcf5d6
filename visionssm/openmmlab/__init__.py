"""Our backbones in mmdetection and mmsegmentation; needs the `openmmlab` extra.

Configs load it with `custom_imports=dict(imports=['visionssm.openmmlab'])`. Importing registers
everything with mmengine's root registries, where both toolboxes find it under any default scope.
"""

from .environment import check_packages

check_packages()

from .backbone import SSMBackbone  # noqa: E402
from .necks import FinerLevels, SimpleFeaturePyramid  # noqa: E402
from .optim import BackboneLayerDecay  # noqa: E402

__all__ = ["BackboneLayerDecay", "FinerLevels", "SSMBackbone", "SimpleFeaturePyramid"]
