"""Random deformations of training images, drawn anew for each epoch, on the device.

Open `augment.py` first: the deformations in order. It is over `warp` (geometry as tensors) and `noise` (random
numbers by counter: the same for an image and an epoch, whatever the batch). `augmentation_policy` says how much of
them a data set gets.
"""
