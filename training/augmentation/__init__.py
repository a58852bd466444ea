"""Data augmentation on the device: random deformations of the training images, drawn anew in each epoch.

Open `augmenter.py` first. It uses `geometry` (affine and elastic maps, resampling) and `counter_rng` (counter-based
random numbers: equal for an image and an epoch, whatever the batch). `policy` sets the limits for a data set.
"""
