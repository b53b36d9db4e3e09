"""Text for the terminal: tables, JSON and YAML, the lines that show events, and log lines."""
