"""What can be wrong with a backup. Each is one line for the operator."""


class BackupError(Exception):
    """A backup can't be made, read or restored; the message says why."""


class Damaged(BackupError):
    """The file isn't what was written; the message names the block and the positions that are concerned."""
