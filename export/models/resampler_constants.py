"""Constants of the 3D resampler that no configuration file holds."""

LAYER_NORM_EPS = 1e-6
MAX_FRAMES = 6  # video frames packed into one group
