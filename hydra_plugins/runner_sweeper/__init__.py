"""Hydra's shell over our rule for sweeps: every job is checked before the first one starts."""
