"""The smallest models that take every path of their family."""

SMALL = {
    "ssm_efficientvim_m1": {
        "embed_dim": (16, 24, 32), "depths": (1, 1, 1), "state_dim": (5, 4, 3),
    },
    "vmamba_pico": {"depths": (1, 1, 1), "dims": (8, 16, 24)},
    "spatial_mamba_tiny": {"depths": (1, 1), "dims": (8, 16)},
    "vssd_tiny": {
        "depths": (1, 1), "dims": (8, 16), "num_heads": (2, 4), "d_state": 5,
        "mixers": ("ssd", "attention"),
    },
    "efficientvmamba_tiny": {"depths": (1, 1, 1), "dims": (8, 16, 24)},
    "vim_tiny": {"depth": 2, "embed_dim": 16, "img_size": (40, 56), "dynamic_img_size": True},
}  # fmt: skip
