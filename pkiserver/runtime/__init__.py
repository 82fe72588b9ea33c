"""Configuration, service tree, workers, health, metrics, logging."""
