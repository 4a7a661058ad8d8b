"""Data sets, made-up video, augmentation and the Grain pipeline; only programs import it."""
