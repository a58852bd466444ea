"""Training: its rate, its time to an accuracy, test error of presets and committees, augmentation, killed runs."""
