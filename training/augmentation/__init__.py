"""Random deformations of training images, drawn anew for each epoch, on the device.

Open `augmenter.py` first: the deformations in order. It is over `geometry` (which pixel comes from where) and
`counter_rng` (random numbers by counter: the same for an image and an epoch, whatever the batch). `policy` says how
much of them a data set gets.
"""
