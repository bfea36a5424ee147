"""pyproject.toml -> its run-time dependencies, and those of the extras named, one requirement a line."""
import sys

try:
    import tomllib
except ModuleNotFoundError:         # Python 3.10
    from pip._vendor import tomli as tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
wanted = list(project["dependencies"])
for extra in sys.argv[1:]:
    wanted += project["optional-dependencies"][extra]
print("\n".join(wanted))
