"""Spatial-Mamba-B on ImageNet-1k; published top-1 85.3 %.

The recipe is VMamba's. The published run added a loss to it from a quarter of the epochs on: cross
entropy to the softmax of the moving average's logits (MESA), here weighted 2.0. It is left out.
"""

_base_ = "../_base_/vmamba_imagenet_300e.py"

model = dict(network=dict(model_name="spatial_mamba_base", drop_path_rate=0.5))
