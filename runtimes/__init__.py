"""Code that runs inside a function's process, with a folder for each language. It imports nothing else of kubeirq."""
