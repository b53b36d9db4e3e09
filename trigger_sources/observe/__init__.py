"""The flows' metrics, health, logs and admin API."""
