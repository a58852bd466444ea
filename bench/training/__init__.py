"""Training: its rate, the test error of presets and committees, augmentation, and runs that are killed."""
