"""The subcommands of `sru-asr`, a file each: `add` describes its options, `run` does it."""
