"""The group of all commands: options of a fabric in any place, `--version`, and an example in each help."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module

import click

# Options of a fabric with a value. They may come before the command too, as in `kubectl -n team get`
_ANYWHERE = ("--state", "--context", "--kubeconfig", "-n", "--namespace", "--system-namespace")

EXAMPLES: Mapping[str, Sequence[str]] = {
    "dev": ("kubeirq dev app.yaml", "kubeirq dev app/ --secrets secrets/ --debug orders"),
    "serve": ("kubeirq serve /etc/kubeirq --state /var/lib/kubeirq --http-host 0.0.0.0",),
    "check": ("kubeirq check app.yaml", "kubeirq check app/ --secrets secrets/ -o json"),
    "new function": ("kubeirq new function greet --kafka",),
    "new source": ("kubeirq new source moon-phases",),
    "call": (
        'kubeirq call greet -d \'{"name": "Ada"}\'',
        "kubeirq call greet -d @order.json -H 'x-tenant: acme' --attribute type=order.created",
        "kubeirq call hooks --sample github-push",
    ),
    "publish": (
        'kubeirq publish orders -d \'{"item": "tea"}\' --key customer-7',
        "kubeirq publish jobs --subject jobs.mail -d @job.json",
        "kubeirq publish hooks --path /hooks/7 --sample stripe-payment",
    ),
    "fire": ("kubeirq fire nightly",),
    "get": (
        "kubeirq get",
        "kubeirq get KafkaTrigger -o json",
        "kubeirq get --check -n team-a",
    ),
    "describe": ("kubeirq describe orders", "kubeirq describe Function/greet"),
    "logs": ("kubeirq logs greet -f", "kubeirq logs KafkaTrigger/orders --tail 20"),
    "dead-letters list": ("kubeirq dead-letters list orders", "kubeirq dead-letters list orders --group-by reason"),
    "dead-letters show": ("kubeirq dead-letters show orders greet/orders/0/7 --data",),
    "dead-letters redrive": ("kubeirq dead-letters redrive orders --all --rate 10",),
    "dead-letters purge": ("kubeirq dead-letters purge orders greet/orders/0/7",),
    "lanes list": ("kubeirq lanes list orders",),
    "lanes release": ("kubeirq lanes release orders customer-7",),
    "lanes skip": ("kubeirq lanes skip orders customer-7",),
    "suspend": ("kubeirq suspend orders",),
    "resume": ("kubeirq resume orders",),
    "deploy": ("kubeirq deploy app/ -n team-a", "kubeirq deploy app.yaml --dry-run"),
    "render": ("kubeirq render app/ > objects.yaml",),
    "crds": ("kubeirq crds | kubectl apply --server-side -f -",),
    "version": ("kubeirq version",),
    "completion": ('eval "$(kubeirq completion bash)"',),
}


class Commands(click.Group):
    """The group `kubeirq`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, command_first(args))


class CommandModules(MutableMapping[str, click.Command]):
    """Commands by name. A command's module is imported with its first use: `serve` keeps no other command in memory.

    `modules` are those of this package, by the name of a command of theirs.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self._imported: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._imported:
            module = import_module(f"kubeirq.commands.{self._modules[name]}")
            self[name] = getattr(module, name.replace("-", "_"))
            add_examples(self[name], name)
        return self._imported[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._imported[name] = command

    def __delitem__(self, name: str) -> None:
        self._modules.pop(name, None)
        self._imported.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._modules, **self._imported})

    def __len__(self) -> int:
        return len({**self._modules, **self._imported})


def command_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the options that stand before the command at the end, where the command reads them."""
    rest, moved = list(arguments), list[str]()
    while rest:
        name, separator, _ = rest[0].partition("=")
        if name not in _ANYWHERE:
            break
        size = 1 if separator else 2
        moved += rest[:size]
        rest = rest[size:]
    if not moved or not rest:
        return list(arguments)
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *moved, *rest[end:]]


def add_examples(command: click.Command, words: str = "") -> None:
    """Adds the examples to the help of the command, or of each command of a group."""
    if isinstance(command, click.Group):
        for name, found in command.commands.items():
            add_examples(found, f"{words} {name}".strip())
        return
    command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[words])


def print_version(context: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given and not context.resilient_parsing:
        from importlib.metadata import version  # slow to import: it loads the mail parser

        click.echo(version("kubeirq"))
        context.exit()
