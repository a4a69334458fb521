"""What a command of a module of one's own is made of: the same as the platform's own (docs/modules.md).

Import this in the file where the commands are, which only the command line imports, and not where the `Module` is.
"""

from runtime.cli.operator import dispatch
from runtime.cli.options import acting, as_json, limited
from runtime.cli.output import print_fields, print_json, print_table, say
from runtime.cli.views import ask
from runtime.cli.wired import Wired

__all__ = [
    "Wired",
    "acting",
    "as_json",
    "ask",
    "dispatch",
    "limited",
    "print_fields",
    "print_json",
    "print_table",
    "say",
]
