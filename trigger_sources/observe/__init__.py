"""What people and scrapers see of the flows: metrics, health, logs, and the admin API."""
